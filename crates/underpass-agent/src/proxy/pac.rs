//! The PAC file for browsers: only pseudo names go through the proxy. Pure.

use std::net::SocketAddr;

use underpass_proto::names::Suffix;

/// The media type that browsers want it to have.
pub(super) const MEDIA_TYPE: &str = "application/x-ns-proxy-autoconfig";

/// The script, for browsers that reach the proxy for HTTP at `http` and the one for SOCKS at `socks`. Pseudo
/// names, which end with `suffix`, go nowhere else, even when neither answers; everything else goes where it went before.
pub(super) fn script(http: SocketAddr, socks: Option<SocketAddr>, suffix: &Suffix) -> String {
    let socks = socks.map_or(String::new(), |at| format!("; SOCKS5 {at}"));
    // Browsers ask for hosts in lower case, other programs may not; and a name may end with the dot of the root.
    format!(
        "function FindProxyForURL(url, host) {{
  var name = host.toLowerCase().replace(/\\.$/, '');
  if (name === '{suffix}' || dnsDomainIs(name, '.{suffix}'))
    return 'PROXY {http}{socks}';
  return 'DIRECT';
}}
"
    )
}

#[cfg(test)]
mod tests {
    use proxy_watch::pac::{PacEvaluator as _, PacPolicy, PacScript, QuickJsEvaluator};
    use proxy_watch::{ProxyStep, Url};

    use super::*;

    /// What a browser would do, by the engine that reads other people's PAC files.
    fn ways(script: &str, url: &str) -> Vec<String> {
        let (script, url) = (PacScript::new(script.to_owned()), Url::parse(url).unwrap());
        let host = url.host_str().unwrap().to_owned();
        let engine = QuickJsEvaluator::new(PacPolicy::new());
        let steps = engine.evaluate(&script, &url, &host).unwrap();
        let way = |step: &ProxyStep| match step {
            ProxyStep::Direct => "direct".to_owned(),
            ProxyStep::Http(at) => format!("http {}", at.authority()),
            ProxyStep::Socks5(at) => format!("socks5 {}", at.authority()),
            other => format!("{other:?}"),
        };
        steps.iter().map(way).collect()
    }

    #[test]
    fn only_pseudo_names_go_through_the_proxy_and_those_never_past_it() {
        let [http, socks] = ["127.0.0.1:8118", "[::1]:1080"].map(|at| at.parse().unwrap());
        let usual = Suffix::default();
        let (both, one) = (
            script(http, Some(socks), &usual),
            script(http, None, &usual),
        );
        let other = script(http, None, &"corp".parse().unwrap());
        assert_eq!(ways(&other, "http://db.corp/"), ["http 127.0.0.1:8118"]);
        assert_eq!(ways(&other, "http://db.underpass.internal/"), ["direct"]);
        for url in [
            "http://db.underpass.internal/",
            "https://db.al.underpass.internal:8443/x",
            "http://DB.Underpass.Internal/",
            "http://db.underpass.internal./",
            "http://underpass.internal/",
        ] {
            assert_eq!(
                ways(&both, url),
                ["http 127.0.0.1:8118", "socks5 [::1]:1080"],
                "{url}"
            );
            assert_eq!(ways(&one, url), ["http 127.0.0.1:8118"], "{url}");
        }
        for url in [
            "http://example.com/db.underpass.internal",
            "https://underpass.internal.example/",
            "http://notunderpass.internal/",
            "http://127.0.0.1/",
            "http://localhost/",
        ] {
            assert_eq!(ways(&both, url), ["direct"], "{url}");
        }
    }
}
