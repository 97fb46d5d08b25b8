//! `underpass proxy`

use std::net::SocketAddr;

use clap::Args;
use underpass_agent::connect::Local;
use underpass_agent::proxy::{Proxy as Serving, ProxySettings};
use underpass_proto::frame::ChannelKind;

use super::Context;
use super::connect::check_reach;
use super::signals::stop_asked;
use super::using::Using;
use crate::failure::{Failure, LISTEN};
use crate::ready;
use crate::settings::{Flags, OnListen};

/// Where it listens unless something else is said.
const SOCKS: &str = "127.0.0.1:1080";
const HTTP: &str = "127.0.0.1:8118";

/// Lead programs that can use a proxy to services by name, until stopped
///
/// Programs ask for SERVICE.underpass.internal or SERVICE.OWNER.underpass.internal, at any port. Browsers take the
/// address of a PAC file, with which nothing else goes through the proxy: http://127.0.0.1:8118/proxy.pac. Prints one
/// line for each address when it is ready.
#[derive(Debug, Args)]
pub struct Proxy {
    /// Where to speak SOCKS (5 with datagrams, 4 and 4a) [default: 127.0.0.1:1080, unless --http alone is given]
    #[arg(long, value_name = "LOCAL")]
    socks: Option<Local>,
    /// Where to speak HTTP (CONNECT, and requests with the whole address) [default: 127.0.0.1:8118, unless --socks alone
    /// is given]
    #[arg(long, value_name = "LOCAL")]
    http: Option<Local>,
    /// Reach hosts that are no services from this machine, as if there were no proxy; without it they are refused
    #[arg(long)]
    direct: bool,
    /// Write a newline to this file descriptor when ready
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    #[command(flatten)]
    pub flags: Flags<OnListen>,
}

impl Proxy {
    /// Serves until it is told to stop, or the attachment ends for good.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let settings = self.settings(&context)?;
        let stop = stop_asked()?;
        let Some(using) = Using::start(&context, "proxy", None).await? else {
            return Ok(());
        };
        let serving = Serving::bind(settings);
        let serving = serving.map_err(|error| Failure::local(&LISTEN, error.to_string()))?;
        for (kind, at) in [("socks", serving.socks()), ("http", serving.http())] {
            let Some(at) = at else {
                continue;
            };
            using.board.show_entry(kind, &at.to_string());
            tell_ready(&context, kind, at)?;
        }
        ready::signal(self.ready_fd)?;
        let serving = serving.serve(using.connector.clone());
        using.until_stopped(stop, serving).await
    }

    fn settings(&self, context: &Context) -> Result<ProxySettings, Failure> {
        let (socks, http) = match (self.socks, self.http) {
            (None, None) => (Some(usual(SOCKS)), Some(usual(HTTP))),
            given => given,
        };
        for local in [socks, http].into_iter().flatten() {
            if local.kind != ChannelKind::Stream {
                return Err(Failure::usage(format!(
                    "{local}: a proxy is reached by TCP"
                )));
            }
            check_reach(context, local)?;
            if self.direct && !local.is_loopback() {
                return Err(Failure::usage(format!(
                    "--direct would let other machines go anywhere through this one: not with {local}"
                )));
            }
        }
        Ok(ProxySettings {
            socks: socks.map(|local| local.address),
            http: http.map(|local| local.address),
            direct: self.direct,
            suffix: context.settings.suffix.clone(),
            sources: context.settings.allow_from.clone(),
            limits: context.settings.flow_limits(),
        })
    }
}

fn usual(text: &str) -> Local {
    text.parse().expect("the defaults are addresses")
}

fn tell_ready(context: &Context, kind: &str, at: SocketAddr) -> Result<(), Failure> {
    let pac = match kind {
        "http" => format!(", and a PAC file at http://{at}/proxy.pac"),
        _ => String::new(),
    };
    context.output.result(
        &format!("{kind} is at {at}{pac}"),
        &serde_json::json!({ "proxy": kind, "address": at.to_string() }),
    )
}
