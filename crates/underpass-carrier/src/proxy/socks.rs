//! SOCKS 5 (RFC 1928), with user name and password (RFC 1929): a connection by the host's name.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::auth::Gate;
use super::error::ProxyError;
use crate::dial::BoxedConnection;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;

/// Has the proxy connect `stream` to `host` and `port`.
pub(super) async fn connect(
    gate: &Gate,
    stream: &mut BoxedConnection,
    host: &str,
    port: u16,
) -> Result<(), ProxyError> {
    let proxy = gate.proxy().to_string();
    let broken = |reason: &str| ProxyError::Broken {
        proxy: proxy.clone(),
        reason: reason.to_owned(),
    };
    let io = |error: std::io::Error| broken(&error.to_string());
    let credentials = gate.credentials()?;
    let offer: &[u8] = match credentials {
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
        None => &[VERSION, 1, NO_AUTHENTICATION],
    };
    stream.write_all(offer).await.map_err(io)?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await.map_err(io)?;
    match (chosen, credentials) {
        ([VERSION, NO_AUTHENTICATION], _) => {}
        ([VERSION, USER_AND_PASSWORD], Some(who)) => {
            let (user, password) = (short(who.user()), short(who.password()));
            let (user, password) = user
                .zip(password)
                .ok_or_else(|| broken("user name or password is too long for SOCKS"))?;
            let mut message = Zeroizing::new(vec![1]);
            message.extend_from_slice(&user);
            message.extend_from_slice(&password);
            stream.write_all(&message).await.map_err(io)?;
            let mut answer = [0; 2];
            stream.read_exact(&mut answer).await.map_err(io)?;
            if answer[1] != 0 {
                return Err(gate.refuse_password());
            }
        }
        ([VERSION, NONE_ACCEPTABLE], None) => {
            return Err(ProxyError::NeedsCredentials {
                proxy,
                offered: "a user name and password".to_owned(),
            });
        }
        _ => return Err(broken("it does not speak SOCKS 5")),
    }
    let name = short(host).ok_or_else(|| broken("the host's name is too long for SOCKS"))?;
    let mut request = vec![VERSION, 1, 0, 3];
    request.extend_from_slice(&name);
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await.map_err(io)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.map_err(io)?;
    let target = format!("{host}:{port}");
    match head[1] {
        0 => {}
        // RFC 1928 section 6: not allowed by the rules.
        2 => {
            return Err(ProxyError::Refused {
                proxy,
                target,
                status: 2,
            });
        }
        code => {
            return Err(ProxyError::Beyond {
                proxy,
                target,
                status: code.into(),
            });
        }
    }
    // The address that the proxy uses, and its port.
    let len = match head[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await.map_err(io)?),
        _ => return Err(broken("it answers with an unknown kind of address")),
    };
    let mut rest = vec![0; len + 2];
    stream.read_exact(&mut rest).await.map_err(io)?;
    Ok(())
}

/// With its length before it, if that fits into one byte.
fn short(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let len = u8::try_from(text.len()).ok().filter(|len| *len > 0)?;
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() + 1));
    out.push(len);
    out.extend_from_slice(text.as_bytes());
    Some(out)
}
