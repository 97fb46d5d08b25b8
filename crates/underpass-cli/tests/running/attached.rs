//! Attaching with the key of a home, as its agent would, to say what no command says.

use std::sync::Arc;
use std::time::Duration;

use underpass_agent::connect::PinnedTrust;
use underpass_agent::{Reach, Standing};
use underpass_carrier::{ClientSettings, KINDS};
use underpass_endpoint::Session;
use underpass_proto::session::Config;

use super::Home;

/// A session with the publisher of a service.
pub async fn session_to(home: &Home, service: &str) -> (Standing, Session) {
    let home = underpass_agent::Home::at(home.path());
    let known = home.relays().unwrap().list()[0].clone();
    let reach = Reach {
        relay: known.url.parse().unwrap(),
        relay_key: Some(known.key),
        carriers: KINDS.iter().collect(),
        ascent: Default::default(),
        client: ClientSettings::default(),
        session: Config::default(),
        patience: Duration::from_secs(20),
        machine_name: "test".into(),
        announced_by: None,
    };
    let key = Arc::new(home.machine_key().unwrap());
    let (standing, _) = Standing::attach(&reach, key).await.unwrap();
    let trust = PinnedTrust::new(home, known.key, None);
    let session = standing
        .attachment()
        .connect(service, &trust)
        .await
        .unwrap();
    (standing, session)
}
