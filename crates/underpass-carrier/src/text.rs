//! `text`: `poll` with bodies of text, for boxes that let nothing else pass.
//!
//! The last resort. GET and POST only, a length on every body, no header that may not be missing, the
//! id in the path: so HTTP/1.0 is enough, and a box that strips headers, refuses binary bodies or
//! closes each connection behind its answer changes nothing.

use crate::coding::Coding;
use crate::kind::{Abilities, Kind};
use crate::poll::{self, Manner};

/// This carrier's entry in the table.
pub(crate) const KIND: Kind = Kind {
    name: "text",
    abilities: Abilities {
        survives_holding_proxy: true,
        survives_repeated_requests: true,
        survives_cut_connections: true,
        works_over_http10: true,
        text_only: true,
        largest_body: Some(1_000_000),
        connections: 28,
        ..Abilities::NONE
    },
    connect: |client| Box::pin(poll::connect(client)),
    serve: |exchange| Box::pin(poll::serve(exchange, MANNER)),
};

const MANNER: Manner = Manner {
    kind: "text",
    coding: Coding::Text,
};
