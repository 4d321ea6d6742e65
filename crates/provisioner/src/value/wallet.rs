//! Wallet addresses and NFT token ids.

use super::{Refused, checked_text};

/// Number of digits of the largest possible token id, 2^256 - 1.
const DECIMAL_DIGITS: usize = 78;

/// A wallet address of any chain: letters, digits and underscore, 1 to 128 (`0x…`, `bc1…`, `addr_test1…`, base58).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletAddress(String);
checked_text!(WalletAddress);

impl WalletAddress {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if !(1..=128).contains(&text.len()) || !text.bytes().all(allowed) {
            let why = "it must be 1 to 128 letters, digits or underscores";
            return Err(Refused::new("wallet address", text, why));
        }
        Ok(WalletAddress(text.to_string()))
    }
}

/// An NFT token id: a decimal number of up to 256 bits, or an opaque hexadecimal token of up to 64 digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftTokenId {
    /// A decimal number, without leading zeros.
    Decimal(String),
    /// Hexadecimal digits, kept as given.
    Hexadecimal(String),
}

impl NftTokenId {
    /// Checks `text`. Sixty-four digits are a hexadecimal token even if all of them are decimal.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let decimal = text.bytes().all(|b| b.is_ascii_digit());
        let hexadecimal = text.bytes().all(|b| b.is_ascii_hexdigit());
        match text.len() {
            1..64 | 65..=DECIMAL_DIGITS if decimal => {
                let digits = text.trim_start_matches('0');
                Ok(NftTokenId::Decimal(if digits.is_empty() { "0" } else { digits }.to_string()))
            }
            1..=64 if hexadecimal => Ok(NftTokenId::Hexadecimal(text.to_string())),
            _ => Err(Refused::new(
                "NFT token id",
                text,
                "it must be a decimal number or up to 64 hexadecimal digits",
            )),
        }
    }

    /// Returns the form used in the database and the result line: a number, or a string for a hexadecimal token.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            // arbitrary_precision keeps every digit, even beyond 64 bits.
            NftTokenId::Decimal(digits) => digits
                .parse::<serde_json::Number>()
                .map_or_else(|_| digits.clone().into(), serde_json::Value::Number),
            NftTokenId::Hexadecimal(digits) => digits.clone().into(),
        }
    }
}

impl std::fmt::Display for NftTokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NftTokenId::Decimal(digits) | NftTokenId::Hexadecimal(digits) => f.write_str(digits),
        }
    }
}

impl std::str::FromStr for NftTokenId {
    type Err = Refused;
    fn from_str(text: &str) -> Result<Self, Refused> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wallets_of_every_chain_pass_and_separators_do_not() {
        for good in [
            "0x00aF",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
            "addr_test1qz",
            "4vJ9JU1bJJE96FWSJKvHsmmFADCg4gpZQff4P3bkLKi",
        ] {
            assert_eq!(WalletAddress::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(129);
        for bad in ["", "0x,1", "a:b", "a\nb", "a b", "$(id)", "'", "--apply", "ä", long.as_str()] {
            assert!(WalletAddress::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn token_ids_keep_their_digits_beyond_64_bits() {
        let id = NftTokenId::parse("340282366920938463463374607431768211456").unwrap();
        assert_eq!(id.to_json().to_string(), "340282366920938463463374607431768211456");
        assert_eq!(NftTokenId::parse("007").unwrap().to_json().to_string(), "7");
        let hex = "f".repeat(64);
        assert_eq!(NftTokenId::parse(&hex).unwrap().to_json(), serde_json::json!(hex));
        assert!(matches!(NftTokenId::parse(&"1".repeat(64)).unwrap(), NftTokenId::Hexadecimal(_)));
        let largest = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        assert_eq!(NftTokenId::parse(largest).unwrap().to_json().to_string(), largest, "2^256 - 1");
        let (long, longer) = ("f".repeat(65), "1".repeat(79));
        for bad in ["", "-1", "1.0", "0x12", "1 ", "1,2", long.as_str(), longer.as_str()] {
            assert!(NftTokenId::parse(bad).is_err(), "{bad}");
        }
    }
}
