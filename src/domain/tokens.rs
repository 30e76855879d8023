//! How many tokens of input a call will have, guessed from sizes and put right by what models tell.

/// Bytes of request text for a token (<https://ai.google.dev/gemini-api/docs/tokens>: about four
/// characters).
const TEXT: i64 = 4;

/// A picture, or a tile of it (same page).
const IMAGE: i64 = 258;

/// Bytes for a token of sound: 32 tokens a second (same page) at 128 kbit.
const AUDIO: i64 = 500;

/// Bytes for a token of film: 263 tokens a second (same page) at 2 Mbit.
const VIDEO: i64 = 950;

/// Bytes for a token of a document: 258 tokens a page (same page) of 50 KB.
const DOCUMENT: i64 = 200;

/// A rate of one, in thousandths.
pub const ONE: i64 = 1_000;

/// How much each answer lowers the rate.
const WEIGHT: i64 = 16;

/// Returns the tokens expected of a request of so many bytes with `media` of these types and sizes;
/// `rate` is what the model was found to count, in thousandths of the plain guess.
pub fn expected(bytes: i64, media: &[(String, i64)], rate: i64) -> i64 {
    let of_media = |(mime_type, size): &(String, i64)| match mime_type.split('/').next() {
        Some("image") => IMAGE,
        Some("audio") => size / AUDIO,
        Some("video") => size / VIDEO,
        _ => size / DOCUMENT,
    };
    let plain = bytes / TEXT + media.iter().map(of_media).sum::<i64>();
    (plain.saturating_mul(rate) / ONE).max(1)
}

/// Returns the rate after a call whose size alone let expect `plain` tokens and that had `actual`:
/// more is believed at once, less bit by bit.
pub fn corrected(rate: i64, plain: i64, actual: i64) -> i64 {
    if plain <= 0 || actual <= 0 {
        return rate;
    }
    let found = (actual.saturating_mul(ONE) / plain).clamp(ONE / 50, ONE * 50);
    if found > rate { found } else { rate - (rate - found) / WEIGHT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_media_are_guessed_by_their_size() {
        assert_eq!(expected(400, &[], ONE), 100);
        assert_eq!(expected(1, &[], ONE), 1);
        let media = [("image/png", 9_000_000), ("audio/mp3", 16_000), ("video/mp4", 250_000)];
        let media = media.map(|(mime_type, size)| (mime_type.to_owned(), size));
        assert_eq!(expected(0, &media, ONE), 258 + 32 + 263);
        assert_eq!(expected(400, &[], 1_500), 150);
    }

    #[test]
    fn the_guess_comes_near_to_what_the_model_counts() {
        let mut rate = ONE;
        rate = corrected(rate, 1_000, 1_700);
        assert_eq!(expected(4_000, &[], rate), 1_700);
        for _ in 0..200 {
            rate = corrected(rate, 1_000, 700);
        }
        assert!((700..=720).contains(&expected(4_000, &[], rate)));
        assert_eq!(corrected(rate, 0, 10), rate);
    }
}
