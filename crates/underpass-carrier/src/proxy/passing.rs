//! One request past a proxy that wants to know who asks.

use http::header::{self, HeaderMap};
use http::{Response, StatusCode, request};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

use super::auth::Authenticator;
use super::challenge::{Challenge, parse_challenges};
use super::error::ProxyError;
use crate::body::{FlowBody, read_whole};
use crate::error::CarrierError;

/// Requests that one exchange may take; NTLM takes three.
const MOST_ROUNDS: usize = 6;
/// The most bytes of a page that tells that credentials are wanted; more, and the connection is not
/// used again.
const LONGEST_PAGE: usize = 256 * 1024;

/// What came of a request.
pub(crate) enum Passed {
    /// The proxy has let it pass; this is the answer.
    Through(Response<Incoming>),
    /// It is to be sent once more, on a new connection.
    Again,
}

/// Sends a request as often as the proxy wants to know more. `uri` is the request's target as it
/// stands on the wire.
pub(crate) async fn pass(
    sender: &mut SendRequest<FlowBody>,
    auth: &mut Authenticator,
    head: request::Parts,
    uri: &str,
    body: FlowBody,
) -> Result<Passed, CarrierError> {
    let mut body = Some(body);
    for round in 0..MOST_ROUNDS {
        let Some(this) = body.take() else {
            return Ok(Passed::Again);
        };
        body = this.again();
        let mut request = http::Request::from_parts(head.clone(), this);
        let value = auth.authorization(head.method.as_str(), uri).await?;
        let headers = request.headers_mut();
        headers.remove(header::PROXY_AUTHORIZATION);
        headers.extend(value.map(|value| (header::PROXY_AUTHORIZATION, value)));
        let answered = match sender.ready().await {
            Ok(()) => sender.send_request(request).await,
            Err(error) => Err(error),
        };
        let response = match answered {
            Ok(response) => response,
            Err(error) if auth.is_bound() => return Err(error.into()),
            Err(error) => {
                auth.unheard();
                // After it had asked, it was the proxy that closed.
                return match round {
                    0 => Err(error.into()),
                    _ => Ok(Passed::Again),
                };
            }
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            auth.unauthorized()?;
        }
        if response.status() != StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            auth.accepted();
            return Ok(Passed::Through(response));
        }
        let challenges = read_challenges(response.headers());
        let whole = read_whole(response.into_body(), LONGEST_PAGE).await.is_ok();
        auth.challenged(&challenges).await?;
        if !whole || sender.is_closed() {
            return match auth.is_bound() {
                true => Err(broken(
                    auth,
                    "it closes the connection that it authenticates",
                )),
                false => Ok(Passed::Again),
            };
        }
    }
    Err(broken(auth, "it asks for credentials again and again"))
}

fn broken(auth: &Authenticator, reason: &str) -> CarrierError {
    let proxy = auth.gate().proxy().to_string();
    let reason = reason.to_owned();
    ProxyError::Broken { proxy, reason }.into()
}

/// All challenges of an answer.
fn read_challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let all = headers.get_all(header::PROXY_AUTHENTICATE).into_iter();
    all.filter_map(|value| value.to_str().ok())
        .flat_map(parse_challenges)
        .collect()
}
