//! Answers to any request, and what a relay says unasked.

use crate::wire::{Text, body};

body! {
    /// The request has been carried out, and there is nothing to tell.
    pub struct Done {
        /// The request that this answers.
        pub request: u64,
    }
}

body! {
    /// The request has not been carried out.
    pub struct Failed {
        /// The request that this answers.
        pub request: u64,
        /// Why, from the table of codes.
        pub code: u64,
        /// The same for people, in at most 1024 bytes; a longer text is cut.
        pub text: String as Text<1024>,
    }
}

body! {
    /// The relay is shutting down and will close this channel.
    pub struct Going {
        /// Why, from the table of codes.
        pub code: u64,
        /// The same for people, in at most 1024 bytes; a longer text is cut.
        pub text: String as Text<1024>,
        /// When to try again at the earliest, in milliseconds from now.
        pub retry_after_ms: u64,
    }
}

body! {
    /// Something that the user should know.
    pub struct Notice {
        /// In at most 1024 bytes; a longer text is cut.
        pub text: String as Text<1024>,
    }
}

body! {
    /// A manager has ended the attachment; the agent must not attach again by itself.
    pub struct Ended {
        /// Why, from the table of codes.
        pub code: u64,
        /// The same for people, in at most 1024 bytes; a longer text is cut.
        pub text: String as Text<1024>,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Done {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Done { request: 300 }, "20 412c")]
        }
    }

    impl Sampled for Failed {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Failed {
                    request: 6,
                    code: 0x1a,
                    text: "no such user".into(),
                },
                "21 06 1a 0c 6e6f20737563682075736572",
            )]
        }
    }

    impl Sampled for Going {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Going {
                    code: 0x10,
                    text: "update".into(),
                    retry_after_ms: 2_000,
                },
                "30 10 06 757064617465 47d0",
            )]
        }
    }

    impl Sampled for Notice {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Notice {
                    text: "hello".into(),
                },
                "31 05 68656c6c6f",
            )]
        }
    }

    impl Sampled for Ended {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Ended {
                    code: 0x11,
                    text: "bye".into(),
                },
                "32 11 03 627965",
            )]
        }
    }
}
