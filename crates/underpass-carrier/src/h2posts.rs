//! `h2posts`: the requests of `poll` as streams of one HTTP/2 connection.
//!
//! For boxes that speak HTTP/2 but gather requests or answers: as many in flight as there are streams,
//! and none of them waits for a connection.

use crate::coding::Coding;
use crate::kind::{Abilities, Kind};
use crate::poll::{self, Manner};

/// This carrier's entry in the table.
pub(crate) const KIND: Kind = Kind {
    name: "h2posts",
    abilities: Abilities {
        needs_http2: true,
        survives_holding_proxy: true,
        survives_repeated_requests: true,
        survives_cut_connections: true,
        largest_body: Some(1_000_000),
        connections: 1,
        ..Abilities::NONE
    },
    connect: |client| Box::pin(poll::connect(client)),
    serve: |exchange| Box::pin(poll::serve(exchange, MANNER)),
};

const MANNER: Manner = Manner {
    kind: "h2posts",
    coding: Coding::Binary,
};
