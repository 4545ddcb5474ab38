//! What a wake-up of the control loop is about, packed into epoll's 64 bits.

/// A descriptor that the control thread watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Somebody connects.
    Listener,
    /// The log writer has something to say.
    Log,
    /// The pod's own pid 1 has ended.
    PodInit,
    /// A client has sent something, or has gone.
    Connection(u32),
    /// A container's launch reports.
    Launch(u32),
    /// A container's init has ended.
    Init(u32),
    /// An exec's launch reports.
    ExecLaunch(u32),
    /// An exec has ended.
    Exec(u32),
    /// A child that nobody waits for otherwise has ended.
    Stray(u32),
}

impl Token {
    pub(super) fn pack(self) -> u64 {
        let (kind, key) = match self {
            Token::Listener => (0, 0),
            Token::Log => (1, 0),
            Token::PodInit => (2, 0),
            Token::Connection(key) => (3, key),
            Token::Launch(key) => (4, key),
            Token::Init(key) => (5, key),
            Token::ExecLaunch(key) => (6, key),
            Token::Exec(key) => (7, key),
            Token::Stray(key) => (8, key),
        };
        kind << 32 | u64::from(key)
    }

    pub(super) fn unpack(packed: u64) -> Option<Token> {
        // The low half is the key.
        let key = (packed & 0xffff_ffff) as u32;
        Some(match packed >> 32 {
            0 => Token::Listener,
            1 => Token::Log,
            2 => Token::PodInit,
            3 => Token::Connection(key),
            4 => Token::Launch(key),
            5 => Token::Init(key),
            6 => Token::ExecLaunch(key),
            7 => Token::Exec(key),
            8 => Token::Stray(key),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_loses_nothing() {
        let key = u32::MAX - 1;
        for token in [
            Token::Listener,
            Token::Log,
            Token::PodInit,
            Token::Connection(key),
            Token::Launch(key),
            Token::Init(key),
            Token::ExecLaunch(key),
            Token::Exec(key),
            Token::Stray(key),
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
