//! What users use is counted, and what they may use has limits.

use std::time::Duration;

use underpass_endpoint::OpenOptions;
use underpass_proto::Code;
use underpass_proto::control::{
    Control, EventRow, LimitRow, LimitRule, Limits, SetLimit, Usage, UsageBy,
};
use underpass_proto::limit::LimitKind;
use underpass_relay::settings::{Settings, Span};
use underpass_seal::StaticKey;
use underpass_store::{Day, Store as _, UnixMillis};

use crate::connections::list;
use crate::events::{details, of_kind};
use crate::stage::{Agent, Path, Stage, echo_service, exchange, in_time, pattern};

/// Often enough that nobody waits for it.
const OFTEN: Span = Span(Duration::from_millis(50));

/// What was used: key, sessions, bytes from and to the user.
async fn usage(agent: &Agent, by: UsageBy) -> Vec<(String, u64, u64, u64)> {
    let make = |request| {
        Usage {
            request,
            since_day: 0,
            user: String::new(),
            by,
        }
        .into()
    };
    let mut rows = Vec::new();
    for message in agent.ask(make).await.unwrap() {
        match message {
            Control::UsageRows(part) => rows.extend(part.rows),
            other => panic!("{other:?}"),
        }
    }
    rows.into_iter()
        .map(|row| (row.key, row.sessions, row.sent, row.received))
        .collect()
}

/// Waits until so many sessions are in the table, and nothing more comes for a while; what it says then.
async fn settled(agent: &Agent, by: UsageBy, sessions: u64) -> Vec<(String, u64, u64, u64)> {
    in_time("usage to be written", async {
        let mut before = Vec::new();
        loop {
            tokio::time::sleep(4 * OFTEN.0).await;
            let now = usage(agent, by).await;
            if now == before && now.iter().map(|row| row.1).sum::<u64>() >= sessions {
                return now;
            }
            before = now;
        }
    })
    .await
}

async fn set(by: &Agent, user: &str, limit: LimitKind, rule: LimitRule, value: u64) {
    let user = user.to_owned();
    let make = |request| {
        SetLimit {
            request,
            user,
            limit,
            rule,
            value,
        }
        .into()
    };
    by.ask(make).await.unwrap();
}

async fn limits(agent: &Agent) -> Vec<LimitRow> {
    let user = String::new();
    match &agent
        .ask(|request| Limits { request, user }.into())
        .await
        .unwrap()[..]
    {
        [Control::LimitRows(it)] => it.rows.clone(),
        other => panic!("{other:?}"),
    }
}

/// A relay with an administrator, bob, who publishes `db`, and alice, who may use it.
async fn scene(change: impl FnOnce(&mut Settings)) -> (Stage, Agent, Agent, Agent) {
    let stage = Stage::with(|settings| {
        settings.usage_every = OFTEN;
        change(settings);
    })
    .await;
    let admin = stage.administrator().await;
    let bob = stage.invited(&admin, "bob").await;
    bob.serve_echo();
    bob.publish("db").await.unwrap();
    let alice = stage.invited(&admin, "alice").await;
    bob.allow("alice", "db").await.unwrap();
    (stage, admin, bob, alice)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_counted_at_all_relays_and_over_restarts() {
    let target = echo_service().await;
    let services = format!("[[service]]\nname = \"web\"\ntarget = \"{target}\"\nallow = [\"*\"]\n");
    let dials = |settings: &mut Settings| settings.read_toml(&services).unwrap();
    let (stage, admin, bob, alice) = scene(dials).await;
    let session = alice.connect("db.bob", &bob.key).await.unwrap();
    assert!(exchange(&session, "db", pattern(100_000)).await.len() == 100_000);
    session.close(Code::NoError, "done");
    let hop = alice.attachment.session();
    assert!(exchange(&hop, "web", pattern(50_000)).await.len() == 50_000);

    // The same user at a second relay with the same database.
    let file = stage.settings.data.join("underpass.db");
    let second = Stage::with(|settings| {
        settings.database = Some(file);
        settings.usage_every = OFTEN;
        dials(settings);
    })
    .await;
    let key = StaticKey::from_bytes(*alice.key.to_bytes());
    let there = Agent::attach(second.address(), key).await;
    let hop = there.attachment.session();
    assert!(exchange(&hop, "web", pattern(70_000)).await.len() == 70_000);

    let by_service = settled(&alice, UsageBy::Service, 3).await;
    let [db, web] = &by_service[..] else {
        panic!("two services: {by_service:?}");
    };
    assert_eq!((&*db.0, db.1), ("db.bob", 1));
    for bytes in [db.2, db.3] {
        assert!((100_000..150_000).contains(&bytes), "{db:?}");
    }
    assert_eq!(*web, ("web.relay".into(), 2, 120_000, 120_000));
    let by_day = usage(&alice, UsageBy::Day).await;
    assert_eq!(by_day.iter().map(|row| row.1).sum::<u64>(), 3);
    assert!(by_day[0].0.len() == "2026-01-31".len(), "{by_day:?}");
    let all = usage(&admin, UsageBy::User).await;
    assert_eq!(all.len(), 1, "nobody else has used anything: {all:?}");
    assert_eq!((&*all[0].0, all[0].1), ("alice", 3));
    assert_eq!(usage(&bob, UsageBy::User).await, []);

    // A restart in order loses nothing, not even what no sweep has written yet.
    second.relay.shutdown().await;
    let settings = Settings {
        usage_every: Span(Duration::from_secs(3600)),
        ..stage.settings.clone()
    };
    stage.relay.shutdown().await;
    let relay = underpass_relay::Relay::start(settings.clone())
        .await
        .unwrap();
    let key = StaticKey::from_bytes(*alice.key.to_bytes());
    let alice = Agent::attach(relay.addresses()[0].1, key).await;
    let hop = alice.attachment.session();
    assert!(exchange(&hop, "web", pattern(30_000)).await.len() == 30_000);
    relay.shutdown().await;
    let file = settings.data.join("underpass.db");
    let store = underpass_store::SqliteStore::open(&file).await.unwrap();
    let used = store.used_since(Day(0)).await.unwrap();
    assert_eq!(used.len(), 1);
    assert!(used[0].1 >= 2 * (100_000 + 120_000 + 30_000), "{used:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_limit_is_kept_with_a_code_and_an_event_and_exceptions_hold_at_once() {
    let target = echo_service().await;
    let services = format!("[[service]]\nname = \"web\"\ntarget = \"{target}\"\nallow = [\"*\"]\n");
    let (stage, admin, bob, alice) = scene(|settings| {
        settings.read_toml(&services).unwrap();
        settings.attachments_per_user = 2;
        settings.sessions_per_user = 2;
        settings.channels_per_user = 1;
    })
    .await;
    // Sessions.
    let connect = || alice.connect("db.bob", &bob.key);
    let first = connect().await.unwrap();
    let _second = connect().await.unwrap();
    assert_eq!(connect().await.unwrap_err(), Code::SessionLimit);
    let hit = &of_kind(&alice, "limit", 1).await[0];
    assert_eq!(details(hit)["code"], "UP-LIMIT-SESSIONS");
    let words = details(hit)["limit"].as_str().unwrap().to_owned();
    assert!(
        words.contains("2 sessions") && words.contains("users limit"),
        "{words}"
    );
    // Resuming is not beginning; neither is what others begin.
    assert!(exchange(&first, "db", pattern(1000)).await.len() == 1000);
    set(&admin, "alice", LimitKind::Sessions, LimitRule::Value, 3).await;
    let _third = connect().await.unwrap();
    assert_eq!(connect().await.unwrap_err(), Code::SessionLimit);
    set(
        &admin,
        "alice",
        LimitKind::Sessions,
        LimitRule::Unlimited,
        0,
    )
    .await;
    let _fourth = connect().await.unwrap();
    set(&admin, "alice", LimitKind::Sessions, LimitRule::Usual, 0).await;
    assert_eq!(
        connect().await.unwrap_err(),
        Code::SessionLimit,
        "what there is stays"
    );

    // Channels to what the relay dials.
    let hop = alice.attachment.session();
    let open = async || {
        let mut channel = hop.open("web", OpenOptions::default()).await.unwrap();
        let accepted = in_time("an answer", channel.accepted()).await;
        accepted.map(|()| channel).map_err(|error| error.code())
    };
    let one = open().await.unwrap();
    assert_eq!(open().await.unwrap_err(), Code::ChannelLimit);
    let row = |kind: LimitKind, rows: &[LimitRow]| rows[usize::from(kind.code())].clone();
    let shown = limits(&alice).await;
    let channels = row(LimitKind::Channels, &shown);
    assert_eq!(
        (channels.value, channels.used, channels.exception),
        (1, 1, false)
    );
    assert_eq!(row(LimitKind::Sessions, &shown).used, 4);
    assert!(!row(LimitKind::BytesPerMonth, &shown).limited);
    drop(one);
    in_time("room again", async {
        while open().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;

    // Attachments.
    let again = || {
        let key = StaticKey::from_bytes(*alice.key.to_bytes());
        Agent::attach_as(stage.address(), key)
    };
    let _another = again().await.unwrap();
    // An agent goes on trying, so it is the relay that tells.
    let trying = tokio::spawn(again());
    in_time("a refusal", async {
        let code = |hit: &EventRow| details(hit)["code"].as_str().map(str::to_owned);
        let wanted = Some("UP-LIMIT-ATTACHMENTS".to_owned());
        while !of_kind(&admin, "limit", 1)
            .await
            .iter()
            .any(|hit| code(hit) == wanted)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    trying.abort();
    assert_eq!(of_kind(&admin, "limit-set", 3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_slows_down_and_loses_nothing() {
    const RATE: u64 = 1 << 20;
    let (_stage, admin, bob, alice) = scene(|_| ()).await;
    let session = alice.connect("db.bob", &bob.key).await.unwrap();
    set(
        &admin,
        "alice",
        LimitKind::BytesPerSecond,
        LimitRule::Value,
        RATE,
    )
    .await;
    let data = pattern(3 << 20);
    let begun = std::time::Instant::now();
    assert!(exchange(&session, "db", data.clone()).await == data);
    // Three times as much as a second may carry, but for the burst.
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(2500), "{took:?}");
    let hit = &of_kind(&alice, "limit", 1).await[0];
    let words = details(hit)["limit"].as_str().unwrap().to_owned();
    assert!(words.contains("bytes per second"), "{words}");
    // What had to wait was neither lost nor counted twice.
    let row = &list(&alice).await[0];
    let most = data.len() as u64 * 11 / 10;
    assert!(row.sent < most && row.received < most, "{row:?}");
    // Others are as fast as before, and alice is when it is taken back.
    set(
        &admin,
        "alice",
        LimitKind::BytesPerSecond,
        LimitRule::Usual,
        0,
    )
    .await;
    assert!(exchange(&session, "db", data.clone()).await == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_is_warned_of_then_over_and_begins_anew_when_somebody_raises_it() {
    let (stage, admin, bob, alice) = scene(|settings| {
        settings.month_per_user = underpass_relay::settings::ByteSize(1_000_000);
    })
    .await;
    let path = Path::to(stage.address()).await;
    let key = StaticKey::from_bytes(*alice.key.to_bytes());
    let alice = Agent::attach(path.address, key).await;
    alice.hello().await.unwrap();
    let session = alice.connect("db.bob", &bob.key).await.unwrap();
    // Both ways together, and a little for sealing.
    assert!(exchange(&session, "db", pattern(455_000)).await.len() == 455_000);
    let near = &of_kind(&alice, "limit-near", 1).await[0];
    assert_eq!(details(near)["value"], 1_000_000);
    let warned = in_time("a notice", alice.control.unasked()).await;
    assert!(
        matches!(&warned, Some(Control::Notice(it)) if it.text.contains("this month")),
        "{warned:?}"
    );
    let ended = session.clone();
    let flooding = async {
        // It is over at some time while this goes on.
        let channel = session.open("db", OpenOptions::default()).await.unwrap();
        let (_reader, mut writer) = channel.into_split();
        while writer.write_chunk(pattern(10_000).into()).await.is_ok() {}
    };
    let (_, closed) = tokio::join!(flooding, in_time("the end", ended.closed()));
    assert_eq!(closed.code, Code::MonthLimit.number());
    assert!(
        closed.reason.contains("1000000 bytes in a month"),
        "{closed:?}"
    );
    let refused = alice.connect("db.bob", &bob.key).await.unwrap_err();
    assert_eq!(refused, Code::MonthLimit);
    let hits = of_kind(&alice, "limit", 1).await;
    assert!(
        hits.iter()
            .any(|hit| details(hit)["code"] == "UP-LIMIT-MONTH"),
        "{hits:?}"
    );
    // Bob has used nothing: it is not on his account.
    let own = bob.connect("db", &bob.key).await.unwrap();
    own.close(Code::NoError, "done");
    set(
        &admin,
        "alice",
        LimitKind::BytesPerMonth,
        LimitRule::Value,
        50_000_000,
    )
    .await;
    in_time("alice may again", async {
        while alice.connect("db.bob", &bob.key).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let today = Day::of(UnixMillis::from(std::time::SystemTime::now()));
    let used = stage.store().await.used_since(today.first_of_month()).await;
    let most = used.unwrap().into_iter().map(|(_, used)| used).max();
    assert!(most.unwrap() >= 1_000_000, "{most:?}");
}
