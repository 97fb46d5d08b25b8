//! What can be wrong with the way through a proxy has a code of its own and says what to do, and nobody finds a password
//! in what an agent logs, nor a token in what a relay does, at whatever level.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md4::Digest as _;
use underpass_lab::boxes::{
    Asks, Connects, Enclosed, Installed, Login, Manners, Microsocks, Place, Squid, SquidRules,
    Stubborn,
};
use underpass_lab::{
    Agent, Finished, Host, Options, Policy, Relay, RelayOptions, Told, TwoFirewalls, exec, tests,
};

fn main() -> ExitCode {
    tests!(
        passwords_wrong_and_missing_are_told_apart_and_never_logged,
        proxies_that_do_not_help_are_told_apart,
        a_relay_with_another_key_is_refused,
        what_opens_a_door_is_not_logged,
    )
}

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 3128;
const USER: &str = "clerk";
const PASSWORD: &str = "Tr0ub4dor&3";
const WRONG: &str = "Tr0ub4dor&4";

fn squid(gate: &Host, asks: Asks) -> Result<Installed> {
    let squid = Squid::start(gate, PORT, &rules(asks))?;
    let login = Some((USER, PASSWORD));
    Ok(told(Installed::proxy(squid.address(), login, squid)))
}

fn rules(asks: Asks) -> SquidRules {
    SquidRules {
        user: USER.into(),
        password: PASSWORD.into(),
        ..SquidRules::asking(asks)
    }
}

/// Spoken to by TLS, so that nobody before it reads the password.
fn over_tls(gate: &Host) -> Result<Installed> {
    let rules = SquidRules {
        over_tls: true,
        ..rules(Asks::Basic)
    };
    let squid = Squid::start(gate, PORT, &rules)?;
    let authority = squid.authority().context("it signs")?.certificate();
    let login = Some((USER, PASSWORD));
    let installed = Installed::speaking("https", squid.address(), login, squid);
    Ok(told(
        installed.with("UNDERPASS_CA", &authority.to_string_lossy()),
    ))
}

fn socks(gate: &Host) -> Result<Installed> {
    let login = (USER, PASSWORD);
    let proxy = Microsocks::asking(gate, PORT, login)?;
    let installed = Installed::speaking("socks5", proxy.address(), Some(login), proxy);
    Ok(told(installed))
}

fn ntlm(gate: &Host) -> Result<Installed> {
    let manners = Manners {
        ntlm: Some(Login {
            domain: "LAB".into(),
            user: USER.into(),
            password: PASSWORD.into(),
        }),
        ..Manners::polite()
    };
    let proxy = Stubborn::start(gate, PORT, manners, 1)?;
    let user = format!("LAB\\{USER}");
    Ok(told(Installed::stubborn(proxy, Some((&user, PASSWORD)))))
}

/// Everything that there is to log is logged.
fn told(installed: Installed) -> Installed {
    installed
        .with("UNDERPASS_LOG", "trace")
        .with("UNDERPASS_PATIENCE", "3s")
}

/// Runs a command of the client that needs the relay, with other variables in its environment.
fn ask(enclosed: &Enclosed, variables: &[(&str, &str)]) -> Result<Finished> {
    let mut command = enclosed.scene.client.command(&["services"])?;
    command.envs(variables.iter().copied());
    exec::output(&mut command, LIMIT)
}

/// The code with which a command failed, and whether it said what to do.
fn code_of(done: &Finished) -> Result<String> {
    let errors = done.errors();
    ensure!(!done.status.success(), "it did not fail: {}", done.text());
    let lines: Vec<&str> = errors
        .lines()
        .filter(|line| line.contains("[UP-"))
        .collect();
    let code = lines
        .last()
        .and_then(|line| Some(line.split_once("[UP-")?.1.split_once(']')?.0));
    let code = code.with_context(|| format!("no code in {errors}"))?;
    ensure!(
        errors.contains("likely cause: ") && errors.contains("next: "),
        "{errors}"
    );
    Ok(format!("UP-{code}"))
}

/// A proxy's address with this login.
fn proxy_url(enclosed: &Enclosed, login: &str) -> Result<String> {
    let (_, url) = enclosed
        .told
        .environment
        .first()
        .context("it is told of a proxy")?;
    let (scheme, rest) = url.split_once("://").context("a URL")?;
    let (_, address) = rest.rsplit_once('@').unwrap_or(("", rest));
    Ok(format!("{scheme}://{login}{address}"))
}

fn passwords_wrong_and_missing_are_told_apart_and_never_logged() -> Result<()> {
    type Start = fn(&Host) -> Result<Installed>;
    // How it is called where it is not answered, the proxy, and the user's name in its address.
    let schemes: [(&str, Start, &str); 5] = [
        ("Basic", |gate| squid(gate, Asks::Basic), USER),
        ("Digest", |gate| squid(gate, Asks::Digest), USER),
        ("NTLM", ntlm, "LAB%5Cclerk"),
        ("Basic", over_tls, USER),
        ("a user name and password", socks, USER),
    ];
    for (scheme, start, user) in schemes {
        let enclosed = Enclosed::start(&Place::Gateway(start), Duration::ZERO, Options::default())?;
        let mut said = Vec::new();
        let mut run = |login: &str| -> Result<Finished> {
            let url = proxy_url(&enclosed, login)?;
            let done = ask(&enclosed, &[("http_proxy", &url)])?;
            said.extend([done.stdout.clone(), done.stderr.clone()].concat());
            Ok(done)
        };
        run(&format!("{user}:Tr0ub4dor%263@"))?.success()?;
        let wrong = code_of(&run(&format!("{user}:Tr0ub4dor%264@"))?)?;
        ensure!(wrong == "UP-PROXY-DENIED", "{scheme}: {wrong}");
        let missing = run("")?;
        ensure!(
            missing.errors().contains(scheme),
            "what is offered is not named: {}",
            missing.errors()
        );
        let missing = code_of(&missing)?;
        ensure!(missing == "UP-PROXY-AUTH", "{scheme}: {missing}");
        // A file instead of the address, and a process that goes on running.
        let file = enclosed.scene.client.home().join("proxy-credentials");
        fs::write(
            &file,
            format!(
                "default login {} password {PASSWORD}\n",
                user.replace("%5C", "\\")
            ),
        )?;
        owner_only(&file)?;
        run("")?.success()?;
        let service = underpass_lab::traffic::Service::echo(&enclosed.scene.net.a, 0)?;
        let way = enclosed.scene.way("echo", service.address())?;
        let stream = underpass_lab::traffic::connect(&enclosed.scene.net.b, way.address(), LIMIT)?;
        underpass_lab::traffic::exchange(&stream, 1000, 3, Duration::ZERO)?;
        ensure!(said.len() > 1000, "it was not logged at all");
        nothing_leaks(scheme, &said, enclosed.scene.net.lab.logs())?;
    }
    Ok(())
}

fn owner_only(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(
        file,
        fs::Permissions::from_mode(0o600),
    )?)
}

/// Looks for the passwords and what is made of them in what was said and in all logs.
fn nothing_leaks(scheme: &str, said: &[u8], logs: &Path) -> Result<()> {
    let mut needles: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for password in [PASSWORD, WRONG] {
        let pair = format!("{USER}:{password}");
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let realm = md5::Md5::digest(format!("{USER}:Lab:{password}"));
        let wide: Vec<u8> = password.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let hash = md4::Md4::digest(&wide);
        let more = [
            ("in clear", password.to_owned()),
            ("in a URL", password.replace('&', "%26")),
            ("as Basic sends it", STANDARD.encode(&pair)),
            ("in base64", STANDARD.encode(password)),
            ("as Digest's A1", hex(&realm)),
            ("as NTLM's hash", hex(&hash)),
            ("as NTLM's hash in base64", STANDARD.encode(hash)),
        ];
        needles.extend(more.map(|(what, text)| (format!("{password} {what}"), text.into_bytes())));
        needles.insert(format!("{password} in UTF-16"), wide);
    }
    // The answers to challenges, from which a password can be guessed.
    needles.insert("an answer of Digest".into(), b"response=\"".to_vec());
    needles.insert("an answer of NTLM".into(), b"TlRMTVNTUAAD".to_vec());
    let mut texts = vec![("a command's output".to_owned(), said.to_vec())];
    for entry in fs::read_dir(logs)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // What the agents of the client wrote.
        if name.starts_with("b-") {
            texts.push((name, fs::read(entry.path())?));
        }
    }
    ensure!(
        texts.len() > 1,
        "no logs of the client in {}",
        logs.display()
    );
    for (name, text) in &texts {
        ensure!(!text.is_empty(), "{name} is empty");
        for (what, needle) in &needles {
            let found = text.windows(needle.len()).any(|part| part == needle);
            ensure!(!found, "{scheme}: {what} is in {name}");
        }
    }
    Ok(())
}

fn polite(gate: &Host) -> Result<Installed> {
    let proxy = Stubborn::start(gate, PORT, Manners::polite(), 1)?;
    Ok(told(Installed::stubborn(proxy, None)))
}

fn proxies_that_do_not_help_are_told_apart() -> Result<()> {
    let options = Options {
        relay: RelayOptions {
            tls: true,
            ..RelayOptions::default()
        },
        ..Options::default()
    };
    let enclosed = Enclosed::start(&Place::Gateway(polite), Duration::ZERO, options)?;
    let proxy = enclosed.stubborn.clone().context("the box is stubborn")?;
    ask(&enclosed, &[])?.success()?;
    let mut codes = BTreeMap::new();
    let mut expect = |what: &'static str, code: &str, done: &Finished| -> Result<()> {
        let found = code_of(done).context(what)?;
        ensure!(
            found == code,
            "{what}: {found} instead of {code}\n{}",
            done.errors()
        );
        let before = codes.insert(found, what);
        ensure!(before.is_none(), "{what} and {before:?} have the same code");
        Ok(())
    };
    proxy.change(|manners| manners.connects = Connects::Refused);
    expect("a refusal", "UP-PROXY-REFUSED", &ask(&enclosed, &[])?)?;
    proxy.change(|manners| manners.portal = true);
    expect("a portal", "UP-PORTAL", &ask(&enclosed, &[])?)?;
    proxy.change(|manners| *manners = Manners::polite());
    ask(&enclosed, &[])?.success()?;
    let at = enclosed
        .stubborn
        .as_ref()
        .context("the box is stubborn")?
        .address();
    let nobody = format!("http://{}:{}", at.ip(), at.port() + 1);
    expect(
        "nobody there",
        "UP-PROXY",
        &ask(&enclosed, &[("https_proxy", &nobody)])?,
    )?;
    let pac = [("UNDERPASS_PAC", "/nonexistent/proxy.pac")];
    expect("no PAC file", "UP-PAC", &ask(&enclosed, &pac)?)?;
    // A portal before a relay without TLS.
    let plain = Enclosed::start(&Place::Gateway(polite), Duration::ZERO, Options::default())?;
    let proxy = plain.stubborn.clone().context("the box is stubborn")?;
    proxy.change(|manners| manners.portal = true);
    let code = code_of(&ask(&plain, &[])?)?;
    ensure!(code == "UP-PORTAL", "{code}");
    Ok(())
}

/// The relay's data are lost: what stands at its address is another one.
fn a_relay_with_another_key_is_refused() -> Result<()> {
    let place = Place::Nowhere(Policy::web());
    let options = Options {
        client: Told {
            environment: vec![("UNDERPASS_PATIENCE".into(), "3s".into())],
            relay: None,
        },
        ..Options::default()
    };
    let enclosed = Enclosed::start(&place, Duration::ZERO, options)?;
    ask(&enclosed, &[])?.success()?;
    enclosed.scene.relay.process().kill()?;
    let _other = Relay::start(&enclosed.scene.net.relay)?;
    let code = code_of(&ask(&enclosed, &[])?)?;
    ensure!(code == "UP-KEY", "{code}");
    Ok(())
}

/// Codes and tokens, in what the relay and both agents log and say when everything is logged.
fn what_opens_a_door_is_not_logged() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let options = RelayOptions {
        arguments: vec!["--log".into(), "trace".into()],
        ..RelayOptions::default()
    };
    let relay = Relay::start_with(&net.relay, &options)?;
    let trace = Told {
        environment: vec![("UNDERPASS_LOG".into(), "trace".into())],
        relay: None,
    };
    let publisher = Agent::unknown(&net.a)?.told(trace.clone());
    let client = Agent::unknown(&net.b)?.told(trace);
    let mut said = Vec::new();
    let mut run = |agent: &Agent, arguments: &[&str]| -> Result<String> {
        let done = exec::output(&mut agent.command(arguments)?, LIMIT)?.success()?;
        said.extend_from_slice(&done.stderr);
        Ok(done.text().trim().to_owned())
    };
    let setup = fs::read_to_string(relay.setup_file())?;
    let setup = setup.trim();
    run(&publisher, &["login", relay.url(), "--setup", setup])?;
    let invitation = run(&publisher, &["users", "invite", "client"])?;
    run(&client, &["login", relay.url(), "--invite", &invitation])?;
    let again = exec::output(
        &mut client.command(&["login", relay.url(), "--invite", &invitation])?,
        LIMIT,
    )?;
    let token = run(&client, &["users", "token", "meter"])?;
    let wrong = format!("upt_{}", "5ec2e7".repeat(11))
        .split_at(68)
        .0
        .to_owned();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (token, status) in [(&token, "404"), (&wrong, "401")] {
            let mut curl = net.b.command("curl");
            curl.args([
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                version,
                "-d",
                "",
            ]);
            curl.args(["-H", &format!("Authorization: Bearer {token}")]);
            curl.arg(format!("{}/plain/open?service=none", relay.url()));
            let done = exec::output(&mut curl, LIMIT)?.success()?;
            ensure!(done.text() == status, "{version}: {}", done.text());
        }
    }
    said.extend_from_slice(&again.stderr);
    let mut texts = vec![("what commands said".to_owned(), said)];
    for entry in fs::read_dir(net.lab.logs())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        texts.push((name, fs::read(entry.path())?));
    }
    let relays = texts.iter().any(|(name, text)| {
        let traced = text.windows(5).any(|word| word == b"TRACE");
        name.starts_with("relay") && traced
    });
    ensure!(relays, "the relay has logged nothing");
    for (name, text) in &texts {
        for (what, secret) in [
            ("the invitation", invitation.as_str()),
            ("the token", &token[4..]),
            ("a wrong token", &wrong[4..]),
            ("the setup code", setup),
        ] {
            // The relay shows that one on its terminal, where it is meant to be.
            if what == "the setup code" && name.starts_with("relay") {
                continue;
            }
            let mut parts = text.windows(secret.len());
            let found = parts.any(|part| part == secret.as_bytes());
            ensure!(!found, "{what} is in {name}");
        }
    }
    Ok(())
}
