//! Counters of messages: every one that is dropped or refused has its reason here.

/// Declares the counters: variant, name, sentence.
macro_rules! counters {
    ($($variant:ident, $name:expr, $sentence:expr;)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Counter { $(#[doc = $sentence] $variant,)* }

        impl Counter {
            /// Every counter, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The counter's name, as metrics and the command line show it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it counts, in a sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

counters! {
    Received, "ike_received", "IKE datagrams received.";
    Sent, "ike_sent", "IKE datagrams sent, retransmissions included.";
    Retransmitted, "ike_retransmitted", "Requests sent again because no response came.";
    ResponseResent, "ike_response_resent", "Responses sent again because their request was repeated.";
    Malformed, "ike_malformed", "Datagrams dropped because they are no IKE message.";
    OtherVersion, "ike_other_version", "Messages dropped because they are not of IKE version 2.";
    Stranger, "ike_stranger", "IKE_SA_INIT requests dropped because no peer is configured at their address.";
    UnknownSpi, "ike_unknown_spi", "Messages dropped because no IKE SA has their SPIs.";
    NotAuthentic, "ike_not_authentic", "Messages dropped because their integrity check failed.";
    MessageIdWindow, "ike_message_id_window", "Messages dropped because their message ID is outside the window.";
    Unexpected, "ike_unexpected", "Messages dropped because their exchange does not fit the state of the IKE SA.";
    CookieSent, "ike_cookie_sent", "Initiators asked to return a cookie.";
    CookieWrong, "ike_cookie_wrong", "IKE_SA_INIT requests whose cookie was not ours.";
    HalfOpenLimit, "ike_half_open_limit", "IKE_SA_INIT requests dropped because too many IKE SAs are half open.";
    HalfOpenExpired, "ike_half_open_expired", "Half-open IKE SAs dropped because IKE_AUTH never came.";
    SaLimit, "ike_sa_limit", "IKE_SA_INIT requests dropped because the gateway holds as many IKE SAs as it may.";
    RateLimited, "ike_rate_limited", "Unprotected answers and events about strangers left out because there were too many.";
    AuthenticationFailed, "ike_authentication_failed", "Peers whose identity or proof was refused.";
    NoProposalChosen, "ike_no_proposal_chosen", "Negotiations refused here because no proposal was acceptable.";
    SelectorsUnacceptable, "ike_selectors_unacceptable", "Child SAs refused here because of their traffic selectors.";
    InvalidSyntax, "ike_invalid_syntax", "Authenticated requests refused because they make no sense.";
    Vanished, "ike_peer_vanished", "IKE SAs dropped because the peer did not answer.";
    FragmentReceived, "ike_fragment_received", "Authentic fragments of IKE messages received.";
    FragmentSent, "ike_fragment_sent", "Fragments of IKE messages sent, retransmissions included.";
    FragmentInvalid, "ike_fragment_invalid", "Fragments dropped because their number or their total makes no sense.";
    FragmentUnexpected, "ike_fragment_unexpected", "Fragments dropped because fragmentation was not negotiated.";
    FragmentDuplicate, "ike_fragment_duplicate", "Fragments dropped because the same one is there already.";
    FragmentInconsistent, "ike_fragment_inconsistent", "Fragments dropped because they belong to another division of their message than newer ones.";
    FragmentOversized, "ike_fragment_oversized", "Fragments dropped because their message is larger, or in more pieces, than we put together.";
    ReassemblyExpired, "ike_reassembly_expired", "Messages given up because fragments of theirs never came.";
    TemporaryFailure, "ike_temporary_failure", "Requests put off because another exchange was under way.";
}

/// The values of all counters.
#[derive(Clone, Debug)]
pub struct Counters([u64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Counter::ALL.len()])
    }
}

impl Counters {
    /// The value of one counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    /// All counters with their values.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL
            .iter()
            .map(|&counter| (counter, self.get(counter)))
    }

    pub(crate) fn count(&mut self, counter: Counter) {
        if let Some(value) = self.0.get_mut(counter as usize) {
            *value += 1;
        }
    }
}
