//! Just enough protobuf (proto3) to speak terraform's provider protocol 6: varints and length-delimited
//! fields, which is all its messages use. No generated code, so that building needs no protoc.

/// One message being written, field by field.
#[derive(Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    /// An integer; zero is left out, as proto3 does with plain fields.
    pub fn int(&mut self, field: u32, number: i64) -> &mut Self {
        if number != 0 {
            self.int_even_zero(field, number);
        }
        self
    }

    /// An integer of a `oneof`, where zero says something and must be written.
    pub fn int_even_zero(&mut self, field: u32, number: i64) -> &mut Self {
        self.key(field, 0);
        self.varint(number as u64);
        self
    }

    /// A truth value; `false` is left out.
    pub fn bool(&mut self, field: u32, truth: bool) -> &mut Self {
        self.int(field, i64::from(truth))
    }

    /// Bytes or text; empty is left out.
    pub fn bytes(&mut self, field: u32, content: &[u8]) -> &mut Self {
        if !content.is_empty() {
            self.embed(field, content);
        }
        self
    }

    /// Text; empty is left out.
    pub fn text(&mut self, field: u32, content: &str) -> &mut Self {
        self.bytes(field, content.as_bytes())
    }

    /// A message within, present even when it has no fields.
    pub fn message(&mut self, field: u32, fill: impl FnOnce(&mut Message)) -> &mut Self {
        let mut inner = Message::new();
        fill(&mut inner);
        self.embed(field, &inner.0);
        self
    }

    fn embed(&mut self, field: u32, content: &[u8]) {
        self.key(field, 2);
        self.varint(content.len() as u64);
        self.0.extend_from_slice(content);
    }
}

/// A message that cannot be read; the text says what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("malformed protobuf message: {0}")]
pub struct Malformed(&'static str);

/// The length-delimited fields of one message, by number, in order. Numbers are skipped: no request of
/// the protocol carries one this provider needs.
pub struct Fields<'a>(Vec<(u32, &'a [u8])>);

impl<'a> Fields<'a> {
    /// Takes a message apart.
    pub fn read(mut rest: &'a [u8]) -> Result<Self, Malformed> {
        let mut found = Vec::new();
        while !rest.is_empty() {
            let key = read_varint(&mut rest)?;
            let number = u32::try_from(key >> 3).map_err(|_| Malformed("field number"))?;
            match key & 7 {
                0 => {
                    read_varint(&mut rest)?;
                }
                1 => {
                    take(&mut rest, 8)?;
                }
                2 => {
                    let length = usize::try_from(read_varint(&mut rest)?).map_err(|_| Malformed("length"))?;
                    found.push((number, take(&mut rest, length)?));
                }
                5 => {
                    take(&mut rest, 4)?;
                }
                _ => return Err(Malformed("wire type")),
            }
        }
        Ok(Self(found))
    }

    /// The content of a field (the last one wins, as protobuf says); empty when it is absent.
    pub fn get(&self, number: u32) -> &'a [u8] {
        self.0.iter().rev().find(|(n, _)| *n == number).map_or(&[], |(_, content)| content)
    }

    /// The content of a field as text; what is not UTF-8 is replaced.
    pub fn text(&self, number: u32) -> String {
        String::from_utf8_lossy(self.get(number)).into_owned()
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(length).ok_or(Malformed("truncated"))?;
    *rest = tail;
    Ok(head)
}

fn read_varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0u64;
    for index in 0..10 {
        let byte = take(rest, 1)?[0];
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed("varint of more than ten bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new();
        message.text(1, "vm").int(2, 300).bool(3, true).message(4, |m| {
            m.int_even_zero(1, 0);
        });
        assert_eq!(message.0, b"\x0a\x02vm\x10\xac\x02\x18\x01\x22\x02\x08\x00");
        let fields = Fields::read(&message.0).unwrap();
        assert_eq!((fields.text(1), fields.get(4), fields.get(9)), ("vm".into(), &b"\x08\x00"[..], &b""[..]));
    }

    #[test]
    fn truncated_messages_are_refused() {
        for bad in [&b"\x0a\x05vm"[..], b"\x0a", b"\x0b\x00", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
        {
            assert!(Fields::read(bad).is_err(), "{bad:?}");
        }
    }
}
