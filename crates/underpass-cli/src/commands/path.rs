//! What lies between this machine and a relay: proxies, who may know them, whose certificates count.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use underpass_agent::Home;
use underpass_carrier::proxy::{
    Credentials, CredentialsFile, Environment, PacPlace, Prompt, Proxies, ProxyChoice,
    ProxySettings, serve_pac_worker,
};
use underpass_carrier::{IdentityError, TlsRoots};

use crate::failure::Failure;
use crate::settings::{ProxyMode, Settings};
use crate::terminal::Terminal;

/// By this name the program does nothing but run PAC files, one and once, for another process of
/// itself. Through a link, because the worker is started without arguments.
const PAC_WORKER: &str = "underpass-pac-worker";

/// Runs a PAC file, where the program was started for that.
pub fn serve_as_pac_worker() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    let is_worker = Path::new(&name).file_name()? == PAC_WORKER;
    is_worker.then(serve_pac_worker)
}

/// Proxies and roots as they are set.
#[derive(Debug, Clone)]
pub struct PathSettings {
    /// The proxies.
    pub proxies: Proxies,
    /// Roots beside the system's.
    pub roots: TlsRoots,
}

impl PathSettings {
    /// Reads what the settings name. `variable` looks variables up; `ask` says whether somebody may
    /// be asked on the terminal.
    pub fn new(
        settings: &Settings,
        home: &Home,
        variable: impl Fn(&str) -> Option<String>,
        ask: bool,
    ) -> Result<Self, Failure> {
        let mut proxies = ProxySettings::default();
        let mode = settings.proxy.mode()?;
        proxies.choice = match (mode, settings.pac.0.as_str()) {
            (ProxyMode::None, _) => ProxyChoice::None,
            (ProxyMode::Fixed(url), _) => ProxyChoice::Fixed(url),
            (ProxyMode::Auto, "") => {
                let environment = Environment::read(variable);
                let wrong = |error| Failure::usage(format!("{error}"));
                ProxyChoice::Environment(environment.map_err(wrong)?)
            }
            (ProxyMode::Auto, place) => {
                proxies.pac_worker = Some(pac_worker(home)?);
                let place: Result<PacPlace, _> = place.parse();
                match place {
                    Ok(place) => ProxyChoice::Pac(place),
                    Err(never) => match never {},
                }
            }
        };
        if !matches!(proxies.choice, ProxyChoice::None) {
            proxies.credentials = credentials(settings, home)?;
            proxies.prompt = ask.then(|| Arc::new(ask_on_terminal) as Prompt);
        }
        let roots = match settings.ca.0.as_str() {
            "" => TlsRoots::default(),
            path => TlsRoots::from_pem_file(Path::new(path))
                .map_err(|error: IdentityError| Failure::file(error.to_string()))?,
        };
        let proxies = Proxies::new(proxies);
        Ok(Self { proxies, roots })
    }
}

/// The file that is named, or the usual one where there is one.
fn credentials(settings: &Settings, home: &Home) -> Result<CredentialsFile, Failure> {
    let usual = home.proxy_credentials_file();
    let path = match settings.proxy_credentials.0.as_str() {
        "" if !usual.exists() => return Ok(CredentialsFile::default()),
        "" => usual,
        named => PathBuf::from(named),
    };
    CredentialsFile::load(&path).map_err(|error| Failure::file(error.to_string()))
}

/// A link to this program by the worker's name.
fn pac_worker(home: &Home) -> Result<PathBuf, Failure> {
    let failed =
        |error: io::Error| Failure::file(format!("cannot set up what runs PAC files: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let folder = home.run_folder()?;
    let folder = folder.canonicalize().map_err(failed)?;
    let link = folder.join(PAC_WORKER);
    if std::fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(link);
    }
    // Others may be about to use the old one, or to do the same.
    let new = folder.join(format!("{PAC_WORKER}.{}", std::process::id()));
    let _ = std::fs::remove_file(&new);
    std::os::unix::fs::symlink(&program, &new).map_err(failed)?;
    std::fs::rename(&new, &link).map_err(failed)?;
    Ok(link)
}

/// Asks for user name and password, where somebody sits at a terminal.
fn ask_on_terminal(proxy: &str) -> Option<Credentials> {
    ask(proxy).ok().flatten()
}

fn ask(proxy: &str) -> io::Result<Option<Credentials>> {
    let Some(mut terminal) = Terminal::open()? else {
        return Ok(None);
    };
    let question = format!("The proxy {proxy} wants to know who asks.\nUser name: ");
    let user = terminal.ask(&question)?;
    if user.is_empty() {
        return Ok(None);
    }
    let password = terminal.ask_silently("Password: ")?;
    Ok(Some(Credentials::new(&user, &password)))
}
