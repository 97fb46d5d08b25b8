//! Registering and logging in by name and password.
//!
//! The messages inside are those of OPAQUE (RFC 9807), as `underpass_seal::password` makes and reads them.

use underpass_seal::password::{
    CHALLENGE_LEN, LOGIN_LEN, PASSWORD_FILE_LEN, PROOF_LEN, REGISTER_LEN, REGISTERED_LEN,
};

use crate::wire::{Label, Secret, body};

body! {
    /// Begins to log in by password; answered by [`Challenge`], whether there is such a user or not.
    pub struct SignIn {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The user; at most 63 bytes.
        pub user: String as Label<63>,
        /// KE1 of OPAQUE.
        pub message: [u8; LOGIN_LEN] as Secret,
    }
}

body! {
    /// The relay's part of a login.
    pub struct Challenge {
        /// The request that this answers.
        pub request: u64,
        /// KE2 of OPAQUE.
        pub message: [u8; CHALLENGE_LEN] as Secret,
    }
}

body! {
    /// Proves the password to the last [`Challenge`], and enrols the machine whose key made this session; answered by
    /// [`Identity`](super::Identity).
    pub struct Prove {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The machine's new name; at most 63 bytes.
        pub machine: String as Label<63>,
        /// KE3 of OPAQUE.
        pub message: [u8; PROOF_LEN] as Secret,
    }
}

body! {
    /// Begins to register a password, of a new user or of the one who asks; answered by [`Evaluated`].
    pub struct Register {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The user; at most 63 bytes.
        pub user: String as Label<63>,
        /// OPAQUE's registration request.
        pub message: [u8; REGISTER_LEN] as Secret,
    }
}

body! {
    /// The relay's part of a registration.
    pub struct Evaluated {
        /// The request that this answers.
        pub request: u64,
        /// OPAQUE's registration response.
        pub message: [u8; REGISTERED_LEN] as Secret,
    }
}

body! {
    /// Hands the password file in. Of a machine that is not enrolled: makes the user, who waits for approval, and
    /// enrols the machine under it; answered by [`Failed`](super::Failed) with the code that says so. Of one that is:
    /// changes its user's password; answered by [`Done`](super::Done).
    pub struct SetPassword {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The user; at most 63 bytes.
        pub user: String as Label<63>,
        /// The machine's new name; at most 63 bytes; without meaning where it is enrolled.
        pub machine: String as Label<63>,
        /// OPAQUE's registration record.
        pub file: [u8; PASSWORD_FILE_LEN] as Secret,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for SignIn {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                SignIn {
                    request: 15,
                    user: "bob".into(),
                    message: [0x51; LOGIN_LEN],
                },
                "0f 0f 03 626f62 \
                 5151515151515151515151515151515151515151515151515151515151515151 \
                 5151515151515151515151515151515151515151515151515151515151515151 \
                 5151515151515151515151515151515151515151515151515151515151515151",
            )]
        }
    }

    impl Sampled for Challenge {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Challenge {
                    request: 15,
                    message: [0x52; CHALLENGE_LEN],
                },
                "29 0f \
                 5252525252525252525252525252525252525252525252525252525252525252 \
                 5252525252525252525252525252525252525252525252525252525252525252 \
                 5252525252525252525252525252525252525252525252525252525252525252 \
                 5252525252525252525252525252525252525252525252525252525252525252 \
                 5252525252525252525252525252525252525252525252525252525252525252 \
                 5252525252525252525252525252525252525252525252525252525252525252 \
                 5252525252525252525252525252525252525252525252525252525252525252 \
                 5252525252525252525252525252525252525252525252525252525252525252 \
                 5252525252525252525252525252525252525252525252525252525252525252 \
                 5252525252525252525252525252525252525252525252525252525252525252",
            )]
        }
    }

    impl Sampled for Prove {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Prove {
                    request: 16,
                    machine: "laptop".into(),
                    message: [0x53; PROOF_LEN],
                },
                "10 10 06 6c6170746f70 \
                 5353535353535353535353535353535353535353535353535353535353535353 \
                 5353535353535353535353535353535353535353535353535353535353535353",
            )]
        }
    }

    impl Sampled for Register {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Register {
                    request: 17,
                    user: "bob".into(),
                    message: [0x54; REGISTER_LEN],
                },
                "11 11 03 626f62 \
                 5454545454545454545454545454545454545454545454545454545454545454",
            )]
        }
    }

    impl Sampled for Evaluated {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Evaluated {
                    request: 17,
                    message: [0x55; REGISTERED_LEN],
                },
                "2a 11 \
                 5555555555555555555555555555555555555555555555555555555555555555 \
                 5555555555555555555555555555555555555555555555555555555555555555",
            )]
        }
    }

    impl Sampled for SetPassword {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                SetPassword {
                    request: 18,
                    user: "bob".into(),
                    machine: "laptop".into(),
                    file: [0x56; PASSWORD_FILE_LEN],
                },
                "12 12 03 626f62 06 6c6170746f70 \
                 5656565656565656565656565656565656565656565656565656565656565656 \
                 5656565656565656565656565656565656565656565656565656565656565656 \
                 5656565656565656565656565656565656565656565656565656565656565656 \
                 5656565656565656565656565656565656565656565656565656565656565656 \
                 5656565656565656565656565656565656565656565656565656565656565656 \
                 5656565656565656565656565656565656565656565656565656565656565656",
            )]
        }
    }

    #[test]
    fn debug_output_keeps_what_passwords_could_be_tried_against() {
        let (set, _) = SetPassword::samples().remove(0);
        let shown = format!("{set:?}");
        assert!(shown.contains("file: (secret)") && !shown.contains("5656"));
    }
}
