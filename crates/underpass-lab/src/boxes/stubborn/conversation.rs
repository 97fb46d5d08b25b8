//! What the box does with one client's connection. Pure: bytes and the time come in, commands go out.

use std::time::Duration;

use super::body::{BodyReader, Framing};
use super::head::{Answer, LONGEST, Malformed, Request};
use super::manners::{Manners, Tally};
use super::ntlm::Door;
use super::passage::{Head, MOST_HELD, Passage};
use super::rules::{self, Ruling};
use super::store::{self, Kept, Store};
use super::text::{TextCheck, is_text_type};

/// What happened.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// These bytes came from the client.
    Client(&'a [u8]),
    /// The client has ended its connection.
    ClientEnd,
    /// These bytes came from the server.
    Server(&'a [u8]),
    /// The server has ended its connection.
    ServerEnd,
    /// The server could not be reached.
    Unreachable,
    /// Time has passed, or the manners have changed.
    Time,
}

/// What the driver is to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// End the connection to the server, if there is one, and make one to this host and port.
    Connect(String),
    /// Send to the server.
    ToServer(Vec<u8>),
    /// Send to the client.
    ToClient(Vec<u8>),
    /// Deliver this request on a connection of its own and throw the answer away.
    Deliver {
        /// Host and port.
        to: String,
        /// The whole request.
        request: Vec<u8>,
        /// Whether to go on with the commands at once instead of when the answer is there.
        beside: bool,
    },
    /// Close both connections when everything is sent.
    Finish,
    /// Close both connections at once.
    Cut,
}

/// What all connections of the box share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) manners: Manners,
    pub(super) store: Store,
    pub(super) tally: Tally,
}

/// One client's connection.
#[derive(Debug)]
pub(super) struct Conversation {
    begun: Duration,
    /// When a byte of a body last came, or an exchange began.
    active: Duration,
    /// Where requests go that do not say where to: the server behind a box that clients do not see.
    onward: Option<String>,
    challenge: [u8; 8],
    door: Door,
    requests: u32,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
    /// The server that the connection onward leads to.
    server: Option<String>,
    /// Whether the client is in the middle of an answer or a tunnel: an answer of the box's own makes no sense then.
    amid: bool,
    phase: Phase,
    commands: Vec<Command>,
}

#[derive(Debug)]
enum Phase {
    /// For a request.
    Waiting,
    /// For the rest of a request that was refused.
    Refusing(BodyReader),
    Exchange(Box<Exchange>),
    /// What the box keeps back of what goes up and of what comes down.
    Tunnel(Vec<u8>, Vec<u8>),
    Over,
}

/// A request and its answer.
#[derive(Debug)]
struct Exchange {
    method: String,
    url: String,
    server: String,
    /// Whether the client understands chunks and wants to keep the connection.
    keeps: bool,
    upgrades: bool,
    repeats: bool,
    body: BodyReader,
    text: TextCheck,
    up: Passage,
    answer: Option<Answering>,
}

#[derive(Debug)]
struct Answering {
    body: BodyReader,
    text: TextCheck,
    down: Passage,
    /// A copy for the store.
    copy: Option<Kept>,
    server_keeps: bool,
}

impl Conversation {
    /// `onward` is where requests go that name no server. `challenge` is for NTLM, another one for each connection.
    pub(super) fn new(now: Duration, onward: Option<String>, challenge: [u8; 8]) -> Self {
        Self {
            begun: now,
            active: now,
            onward,
            challenge,
            door: Door::default(),
            requests: 0,
            from_client: Vec::new(),
            from_server: Vec::new(),
            server: None,
            amid: false,
            phase: Phase::Waiting,
            commands: Vec::new(),
        }
    }

    /// Takes in what happened and says what to do.
    pub(super) fn step(
        &mut self,
        now: Duration,
        event: &Event<'_>,
        shared: &mut Shared,
    ) -> Vec<Command> {
        if let Err(Malformed(_)) = self.take(now, event, shared) {
            self.refuse_and_close(
                rules::refusal(400, "Bad Request", "This is not HTTP."),
                shared,
            );
        }
        if !matches!(self.phase, Phase::Over) && self.is_due(now, &shared.manners) {
            shared.tally.cut += 1;
            self.end(Command::Cut);
        }
        std::mem::take(&mut self.commands)
    }

    /// When to come back with [`Event::Time`] if nothing else happens.
    pub(super) fn wakes_at(&self, manners: &Manners) -> Option<Duration> {
        let old = manners.lifetime.map(|limit| self.begun + limit);
        let idle = manners.idle_limit.filter(|_| self.is_busy());
        let idle = idle.map(|limit| self.active + limit);
        old.into_iter().chain(idle).min()
    }

    /// Whether more from the client can be taken in.
    pub(super) fn wants_client(&self) -> bool {
        let room = match &self.phase {
            Phase::Exchange(exchange) => exchange.up.has_room(),
            Phase::Tunnel(up, _) => up.len() < MOST_HELD,
            _ => true,
        };
        room && self.from_client.len() < LONGEST * 2
    }

    /// Whether more from the server can be taken in.
    pub(super) fn wants_server(&self) -> bool {
        match &self.phase {
            Phase::Exchange(exchange) => exchange
                .answer
                .as_ref()
                .is_none_or(|answer| answer.down.has_room()),
            Phase::Tunnel(_, down) => down.len() < MOST_HELD,
            _ => true,
        }
    }

    fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Exchange(_) | Phase::Tunnel(..))
    }

    fn is_due(&self, now: Duration, manners: &Manners) -> bool {
        self.wakes_at(manners).is_some_and(|due| due <= now)
    }

    fn take(
        &mut self,
        now: Duration,
        event: &Event<'_>,
        shared: &mut Shared,
    ) -> Result<(), Malformed> {
        match event {
            Event::Client(bytes) => {
                self.active = now;
                self.from_client.extend_from_slice(bytes);
            }
            Event::Server(bytes) => {
                self.active = now;
                self.from_server.extend_from_slice(bytes);
            }
            Event::ClientEnd => {
                self.end(Command::Finish);
                return Ok(());
            }
            Event::ServerEnd => return self.server_ended(now, shared),
            Event::Unreachable => {
                self.server = None;
                let answer =
                    rules::refusal(504, "Gateway Timeout", "The server cannot be reached.");
                self.refuse_and_close(answer, shared);
            }
            Event::Time => {}
        }
        self.advance(now, shared)
    }

    /// Does what can be done with the bytes that are here.
    fn advance(&mut self, now: Duration, shared: &mut Shared) -> Result<(), Malformed> {
        loop {
            match std::mem::replace(&mut self.phase, Phase::Over) {
                Phase::Waiting => {
                    let Some((request, length)) = Request::parse(&self.from_client)? else {
                        self.phase = Phase::Waiting;
                        return Ok(());
                    };
                    self.from_client.drain(..length);
                    self.active = now;
                    self.begin(request, shared)?;
                }
                Phase::Refusing(mut body) => {
                    body.take(&mut self.from_client, &mut Vec::new())?;
                    if !body.is_complete() {
                        self.phase = Phase::Refusing(body);
                        return Ok(());
                    }
                    self.phase = Phase::Waiting;
                }
                Phase::Exchange(exchange) => {
                    if !self.exchange(exchange, shared)? {
                        return Ok(());
                    }
                }
                Phase::Tunnel(up, down) => {
                    self.tunnel(up, down, &shared.manners);
                    return Ok(());
                }
                Phase::Over => return Ok(()),
            }
        }
    }

    /// A request has come.
    fn begin(&mut self, request: Request, shared: &mut Shared) -> Result<(), Malformed> {
        self.requests += 1;
        shared.tally.requests += 1;
        let framing = Framing::of_request(&request)?;
        let ruling = rules::rule(
            &request,
            framing,
            &shared.manners,
            &mut self.door,
            self.challenge,
            self.onward.as_deref(),
        );
        match ruling {
            Ruling::Refuse { answer, keeps } => {
                shared.tally.refused += u64::from(answer.status != 200);
                self.answer_itself(answer, &request, keeps, framing, shared);
            }
            Ruling::Tunnel { to } => {
                shared.tally.tunnels += 1;
                self.commands.push(Command::Connect(to.clone()));
                self.server = Some(to);
                let granted = b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec();
                self.commands.push(Command::ToClient(granted));
                self.amid = true;
                self.phase = Phase::Tunnel(Vec::new(), Vec::new());
            }
            Ruling::Pass { to, url, onward } => {
                let kept = shared
                    .store
                    .get(&url)
                    .filter(|_| request.method == "GET" && shared.manners.caches);
                if let Some(kept) = kept.cloned() {
                    shared.tally.cached += 1;
                    let answer = rules::from_store(kept);
                    let keeps = rules::keeps(&request, &shared.manners);
                    self.answer_itself(answer, &request, keeps, framing, shared);
                    return Ok(());
                }
                self.begin_exchange(&request, framing, to, url, onward, shared);
            }
        }
        Ok(())
    }

    /// Answers without a server; reads on after the body of the request when the connection is kept.
    fn answer_itself(
        &mut self,
        answer: rules::Own,
        request: &Request,
        keeps: bool,
        framing: Framing,
        shared: &mut Shared,
    ) {
        let keeps = keeps && !self.is_last(shared);
        let head_only = request.method == "HEAD";
        self.commands.push(Command::ToClient(answer.to_bytes(
            &shared.manners,
            keeps,
            head_only,
        )));
        if keeps {
            self.phase = Phase::Refusing(BodyReader::new(framing));
        } else {
            self.end(Command::Finish);
        }
    }

    fn begin_exchange(
        &mut self,
        request: &Request,
        framing: Framing,
        to: String,
        url: String,
        onward: Request,
        shared: &mut Shared,
    ) {
        let manners = &shared.manners;
        let short = matches!(framing, Framing::Length(length) if length <= 2 << 20);
        let repeats = manners.repeats_posts && request.method == "POST" && short;
        // HTTP/1.0 means a connection for each request on both sides.
        if manners.only_http10 || self.server.as_ref() != Some(&to) {
            self.commands.push(Command::Connect(to.clone()));
            self.from_server.clear();
            self.server = Some(to.clone());
        }
        let upgrades = onward.fields.get("upgrade").is_some();
        let exchange = Exchange {
            method: request.method.clone(),
            url,
            server: to,
            keeps: rules::keeps(request, manners),
            upgrades,
            repeats,
            body: BodyReader::new(framing),
            text: TextCheck::default(),
            up: Passage::new(Head::Request(onward), framing, !manners.only_http10),
            answer: None,
        };
        self.phase = Phase::Exchange(Box::new(exchange));
    }

    /// Moves an exchange on. True when it is over and the next request may be read.
    fn exchange(
        &mut self,
        mut exchange: Box<Exchange>,
        shared: &mut Shared,
    ) -> Result<bool, Malformed> {
        if !self.up(&mut exchange, shared)? {
            return Ok(false);
        }
        while exchange.answer.is_none() {
            match self.answer_head(&mut exchange, shared)? {
                HeadOf::Missing => break,
                HeadOf::Interim | HeadOf::Final => {}
                HeadOf::Other => return Ok(matches!(self.phase, Phase::Tunnel(..))),
            }
        }
        let over = self.down(&mut exchange, shared)?;
        if matches!(self.commands.last(), Some(Command::Cut | Command::Finish)) {
            return Ok(false);
        }
        if !over {
            self.phase = Phase::Exchange(exchange);
            return Ok(false);
        }
        let answering = exchange.answer.as_ref();
        let by_close = answering.is_none_or(|answer| answer.down.ends_by_close());
        if !answering.is_some_and(|answer| answer.server_keeps) {
            self.server = None;
        }
        // An answer before the end of its request: the rest has nowhere to go.
        let early = !exchange.body.is_complete();
        if by_close || !exchange.keeps || early || self.is_last(shared) {
            self.end(Command::Finish);
            return Ok(false);
        }
        self.phase = Phase::Waiting;
        Ok(true)
    }

    /// What the client sends. False when that ended the connection.
    fn up(&mut self, exchange: &mut Exchange, shared: &mut Shared) -> Result<bool, Malformed> {
        let manners = &shared.manners;
        let mut bytes = Vec::new();
        exchange.body.take(&mut self.from_client, &mut bytes)?;
        if manners.only_text && !exchange.text.passes(&bytes) {
            let answer = rules::refusal(403, "Forbidden", "Only text passes.");
            self.refuse_and_close(answer, shared);
            return Ok(false);
        }
        exchange.up.push(&bytes);
        let complete = exchange.body.is_complete();
        let holds = manners.holds_requests || exchange.repeats;
        let whole = exchange.up.is_untouched();
        let out = exchange.up.release(holds, complete);
        if !out.is_empty() {
            if exchange.repeats && whole {
                shared.tally.repeated += 1;
                let beside = shared.tally.repeated.is_multiple_of(2);
                let to = exchange.server.clone();
                self.commands.push(Command::Deliver {
                    to,
                    request: out.clone(),
                    beside,
                });
            }
            self.commands.push(Command::ToServer(out));
        }
        Ok(true)
    }

    /// The head of the answer, when it is here.
    fn answer_head(
        &mut self,
        exchange: &mut Exchange,
        shared: &mut Shared,
    ) -> Result<HeadOf, Malformed> {
        let Some((mut answer, length)) = Answer::parse(&self.from_server)? else {
            return Ok(HeadOf::Missing);
        };
        self.from_server.drain(..length);
        let manners = &shared.manners;
        if answer.status == 101 && exchange.upgrades {
            shared.tally.tunnels += 1;
            self.commands.push(Command::ToClient(answer.to_bytes()));
            self.amid = true;
            self.phase = Phase::Tunnel(Vec::new(), Vec::new());
            return Ok(HeadOf::Other);
        }
        if answer.status < 200 {
            if !manners.only_http10 && !manners.holds_answers {
                self.commands.push(Command::ToClient(answer.to_bytes()));
            }
            return Ok(HeadOf::Interim);
        }
        let framing = Framing::of_answer(&answer, &exchange.method)?;
        let server_keeps = answer.minor == 1
            && framing != Framing::UntilClose
            && !answer.fields.says("connection", "close");
        answer.fields.drop_hop_by_hop();
        rules::treat_fields(&mut answer.fields, manners.unusual);
        if manners.only_text && framing != Framing::Empty && !is_text_type(&answer.fields) {
            let own = rules::refusal(403, "Forbidden", "Only text passes.");
            self.refuse_and_close(own, shared);
            return Ok(HeadOf::Other);
        }
        let chunks = exchange.keeps && !manners.only_http10;
        answer.minor = u8::from(!manners.only_http10);
        if !exchange.keeps || framing == Framing::UntilClose && !chunks {
            answer.fields.set("Connection", "close");
        }
        let stores = manners.caches && exchange.method == "GET" && answer.status == 200;
        let copy = stores.then(|| Kept {
            media_type: answer.fields.get("content-type").map(str::to_owned),
            body: Vec::new(),
        });
        exchange.answer = Some(Answering {
            body: BodyReader::new(framing),
            text: TextCheck::default(),
            down: Passage::new(Head::Answer(answer), framing, chunks),
            copy,
            server_keeps,
        });
        Ok(HeadOf::Final)
    }

    /// What the server sends. True when the answer is over.
    fn down(&mut self, exchange: &mut Exchange, shared: &mut Shared) -> Result<bool, Malformed> {
        let Some(answer) = &mut exchange.answer else {
            return Ok(false);
        };
        let mut bytes = Vec::new();
        answer.body.take(&mut self.from_server, &mut bytes)?;
        if shared.manners.only_text && !answer.text.passes(&bytes) {
            if answer.down.is_untouched() {
                let own = rules::refusal(403, "Forbidden", "Only text passes.");
                self.refuse_and_close(own, shared);
            } else {
                self.end(Command::Cut);
            }
            return Ok(true);
        }
        answer.down.push(&bytes);
        if let Some(copy) = &mut answer.copy {
            copy.body.extend_from_slice(&bytes);
            if copy.body.len() > store::LONGEST {
                answer.copy = None;
            }
        }
        let complete = answer.body.is_complete();
        let out = answer.down.release(shared.manners.holds_answers, complete);
        self.amid = !complete && !answer.down.is_untouched();
        if !out.is_empty() {
            self.commands.push(Command::ToClient(out));
        }
        if complete && let Some(copy) = answer.copy.take() {
            shared.store.put(&exchange.url, copy);
        }
        Ok(complete)
    }

    fn tunnel(&mut self, mut up: Vec<u8>, mut down: Vec<u8>, manners: &Manners) {
        up.append(&mut self.from_client);
        down.append(&mut self.from_server);
        if !manners.holds_requests && !up.is_empty() {
            self.commands
                .push(Command::ToServer(std::mem::take(&mut up)));
        }
        if !manners.holds_answers && !down.is_empty() {
            self.commands
                .push(Command::ToClient(std::mem::take(&mut down)));
        }
        self.phase = Phase::Tunnel(up, down);
    }

    fn server_ended(&mut self, now: Duration, shared: &mut Shared) -> Result<(), Malformed> {
        self.server = None;
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Exchange(mut exchange) => {
                let Some(answer) = &mut exchange.answer else {
                    let own = rules::refusal(502, "Bad Gateway", "The server has gone.");
                    self.refuse_and_close(own, shared);
                    return Ok(());
                };
                if answer.body.end().is_err() {
                    self.end(Command::Cut);
                } else if self.exchange(exchange, shared)? {
                    return self.advance(now, shared);
                }
            }
            Phase::Tunnel(_, down) => {
                // The end is what an antivirus box waits for.
                if !down.is_empty() {
                    self.commands.push(Command::ToClient(down));
                }
                self.end(Command::Finish);
            }
            // Between two exchanges: the next one makes a connection.
            other => self.phase = other,
        }
        Ok(())
    }

    fn is_last(&self, shared: &mut Shared) -> bool {
        let last = shared
            .manners
            .requests
            .is_some_and(|limit| self.requests >= limit);
        shared.tally.cut += u64::from(last);
        last
    }

    fn refuse_and_close(&mut self, answer: rules::Own, shared: &mut Shared) {
        shared.tally.refused += 1;
        if self.amid {
            self.end(Command::Cut);
            return;
        }
        self.commands.push(Command::ToClient(answer.to_bytes(
            &shared.manners,
            false,
            false,
        )));
        self.end(Command::Finish);
    }

    fn end(&mut self, command: Command) {
        if !matches!(self.commands.last(), Some(Command::Finish | Command::Cut)) {
            self.commands.push(command);
        }
        self.phase = Phase::Over;
    }
}

/// What [`Conversation::answer_head`] has found.
enum HeadOf {
    /// Nothing yet.
    Missing,
    /// One that another follows.
    Interim,
    /// The one of the answer.
    Final,
    /// One that ended the exchange.
    Other,
}

#[cfg(test)]
mod tests;
