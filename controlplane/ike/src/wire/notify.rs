//! Notify message types (RFC 7296 3.10.1 and later RFCs) and their names.

/// Declares the types: constant, number.
macro_rules! notify_types {
    ($($name:ident = $number:expr;)*) => {
        $(#[doc = concat!("`", stringify!($name), "`.")] pub const $name: u16 = $number;)*

        const NAMES: &[(u16, &str)] = &[$(($number, stringify!($name)),)*];
    };
}

notify_types! {
    UNSUPPORTED_CRITICAL_PAYLOAD = 1;
    INVALID_IKE_SPI = 4;
    INVALID_MAJOR_VERSION = 5;
    INVALID_SYNTAX = 7;
    INVALID_MESSAGE_ID = 9;
    INVALID_SPI = 11;
    NO_PROPOSAL_CHOSEN = 14;
    INVALID_KE_PAYLOAD = 17;
    AUTHENTICATION_FAILED = 24;
    SINGLE_PAIR_REQUIRED = 34;
    NO_ADDITIONAL_SAS = 35;
    INTERNAL_ADDRESS_FAILURE = 36;
    FAILED_CP_REQUIRED = 37;
    TS_UNACCEPTABLE = 38;
    INVALID_SELECTORS = 39;
    TEMPORARY_FAILURE = 43;
    CHILD_SA_NOT_FOUND = 44;
    STATE_NOT_FOUND = 47;
    INITIAL_CONTACT = 16384;
    SET_WINDOW_SIZE = 16385;
    ADDITIONAL_TS_POSSIBLE = 16386;
    IPCOMP_SUPPORTED = 16387;
    NAT_DETECTION_SOURCE_IP = 16388;
    NAT_DETECTION_DESTINATION_IP = 16389;
    COOKIE = 16390;
    USE_TRANSPORT_MODE = 16391;
    HTTP_CERT_LOOKUP_SUPPORTED = 16392;
    REKEY_SA = 16393;
    ESP_TFC_PADDING_NOT_SUPPORTED = 16394;
    NON_FIRST_FRAGMENTS_ALSO = 16395;
    IKEV2_FRAGMENTATION_SUPPORTED = 16430;
    SIGNATURE_HASH_ALGORITHMS = 16431;
    INTERMEDIATE_EXCHANGE_SUPPORTED = 16438;
    ADDITIONAL_KEY_EXCHANGE = 16441;
}

/// RFC 7296 3.10.1: types below this report errors, those from it on report status.
const FIRST_STATUS: u16 = 16384;

/// Whether the type reports an error.
pub const fn is_error(number: u16) -> bool {
    number < FIRST_STATUS
}

/// The type's name, or its number where it has none here.
pub fn name(number: u16) -> String {
    NAMES.iter().find(|(n, _)| *n == number).map_or_else(
        || format!("notification {number}"),
        |(_, name)| (*name).to_owned(),
    )
}
