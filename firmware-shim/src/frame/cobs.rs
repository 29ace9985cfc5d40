//! Consistent overhead byte stuffing: bytes without zeros, so that a zero can end a frame.

/// Stuffs `data` into `out` and returns how many bytes that made, at most one more per 254 than given; `None` when `out` is too short.
pub fn encode(data: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut code_at, mut at) = (0, 1);
    *out.first_mut()? = 1;
    for (i, byte) in data.iter().enumerate() {
        if *byte != 0 {
            *out.get_mut(at)? = *byte;
            out[code_at] += 1;
            at += 1;
        }
        // A full block at the very end needs no further code byte.
        if *byte == 0 || (out[code_at] == 0xff && i + 1 < data.len()) {
            code_at = at;
            *out.get_mut(at)? = 1;
            at += 1;
        }
    }
    Some(at)
}

/// Undoes [`encode`] in place and returns the length; `None` for bytes that no encoder makes.
pub fn decode(bytes: &mut [u8]) -> Option<usize> {
    let (mut from, mut to) = (0, 0);
    while from < bytes.len() {
        let code = usize::from(bytes[from]);
        let end = from + code;
        if code == 0 || end > bytes.len() {
            return None;
        }
        bytes.copy_within(from + 1..end, to);
        to += code - 1;
        from = end;
        if code < 0xff && from < bytes.len() {
            bytes[to] = 0;
            to += 1;
        }
    }
    Some(to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn round_trip(data: &[u8]) -> usize {
        let mut wire = [0xaa; 600];
        let len = super::encode(data, &mut wire).expect("room enough");
        assert!(!wire[..len].contains(&0));
        let back = super::decode(&mut wire[..len]).expect("our own bytes");
        assert_eq!(&wire[..back], data);
        len
    }

    #[test]
    fn a_full_block_at_the_end_has_no_code_byte_after_it() {
        assert_eq!(round_trip(&[7; 254]), 255);
        assert_eq!(round_trip(&[7; 255]), 257);
        assert_eq!(round_trip(&[0; 254]), 255);
    }

    #[test]
    fn a_block_that_points_past_the_end_is_refused() {
        assert_eq!(super::decode(&mut [5, 1, 2]), None);
        assert_eq!(super::decode(&mut [1, 0, 2]), None);
    }

    proptest! {
        #[test]
        fn stuffing_is_undone(data in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..520)) {
            round_trip(&data);
        }
    }
}
