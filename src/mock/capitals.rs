//! The capitals that the stand-in knows, so that trying it out reads naturally.

/// Countries and their capitals, in the order of the alphabet.
const CAPITALS: [(&str, &str); 84] = [
    ("Afghanistan", "Kabul"),
    ("Albania", "Tirana"),
    ("Algeria", "Algiers"),
    ("Argentina", "Buenos Aires"),
    ("Armenia", "Yerevan"),
    ("Australia", "Canberra"),
    ("Austria", "Vienna"),
    ("Bangladesh", "Dhaka"),
    ("Belgium", "Brussels"),
    ("Bhutan", "Thimphu"),
    ("Bolivia", "Sucre"),
    ("Brazil", "Brasília"),
    ("Bulgaria", "Sofia"),
    ("Burkina Faso", "Ouagadougou"),
    ("Cambodia", "Phnom Penh"),
    ("Canada", "Ottawa"),
    ("Chile", "Santiago"),
    ("China", "Beijing"),
    ("Colombia", "Bogotá"),
    ("Costa Rica", "San José"),
    ("Croatia", "Zagreb"),
    ("Cuba", "Havana"),
    ("Cyprus", "Nicosia"),
    ("Czechia", "Prague"),
    ("Denmark", "Copenhagen"),
    ("Ecuador", "Quito"),
    ("Egypt", "Cairo"),
    ("Estonia", "Tallinn"),
    ("Ethiopia", "Addis Ababa"),
    ("Finland", "Helsinki"),
    ("France", "Paris"),
    ("Georgia", "Tbilisi"),
    ("Germany", "Berlin"),
    ("Ghana", "Accra"),
    ("Greece", "Athens"),
    ("Hungary", "Budapest"),
    ("Iceland", "Reykjavík"),
    ("India", "New Delhi"),
    ("Indonesia", "Jakarta"),
    ("Iran", "Tehran"),
    ("Iraq", "Baghdad"),
    ("Ireland", "Dublin"),
    ("Israel", "Jerusalem"),
    ("Italy", "Rome"),
    ("Jamaica", "Kingston"),
    ("Japan", "Tokyo"),
    ("Jordan", "Amman"),
    ("Kazakhstan", "Astana"),
    ("Kenya", "Nairobi"),
    ("Latvia", "Riga"),
    ("Lebanon", "Beirut"),
    ("Lithuania", "Vilnius"),
    ("Luxembourg", "Luxembourg"),
    ("Malaysia", "Kuala Lumpur"),
    ("Malta", "Valletta"),
    ("Mexico", "Mexico City"),
    ("Mongolia", "Ulaanbaatar"),
    ("Morocco", "Rabat"),
    ("Nepal", "Kathmandu"),
    ("Netherlands", "Amsterdam"),
    ("New Zealand", "Wellington"),
    ("Nigeria", "Abuja"),
    ("Norway", "Oslo"),
    ("Pakistan", "Islamabad"),
    ("Peru", "Lima"),
    ("Philippines", "Manila"),
    ("Poland", "Warsaw"),
    ("Portugal", "Lisbon"),
    ("Romania", "Bucharest"),
    ("Saudi Arabia", "Riyadh"),
    ("Senegal", "Dakar"),
    ("Serbia", "Belgrade"),
    ("Slovakia", "Bratislava"),
    ("Slovenia", "Ljubljana"),
    ("South Africa", "Pretoria"),
    ("South Korea", "Seoul"),
    ("Spain", "Madrid"),
    ("Sweden", "Stockholm"),
    ("Switzerland", "Bern"),
    ("Thailand", "Bangkok"),
    ("Turkey", "Ankara"),
    ("Ukraine", "Kyiv"),
    ("United Kingdom", "London"),
    ("Vietnam", "Hanoi"),
];

const QUESTION: &str = "capital of ";

/// Returns the country whose capital a prompt asks for, with the capital.
pub(super) fn asked_for(prompt: &str) -> Option<(&'static str, &'static str)> {
    let start = position(prompt, QUESTION)? + QUESTION.len();
    let rest = prompt[start..].trim_start();
    let rest = if starts_with(rest, "the ") { &rest[4..] } else { rest };
    let starts = |name: &str| {
        let next = rest.get(name.len()..).and_then(|after| after.chars().next());
        starts_with(rest, name) && !next.is_some_and(char::is_alphanumeric)
    };
    CAPITALS.iter().find(|(country, _)| starts(country)).copied()
}

/// Returns where `what` begins in `text`, whatever the case of its letters.
fn position(text: &str, what: &str) -> Option<usize> {
    text.as_bytes()
        .windows(what.len())
        .position(|window| window.eq_ignore_ascii_case(what.as_bytes()))
}

fn starts_with(text: &str, what: &str) -> bool {
    text.as_bytes()
        .get(..what.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(what.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_understood_in_many_words() {
        let capital = |prompt| asked_for(prompt).map(|(_, capital)| capital);
        assert_eq!(capital("What is the capital of France?"), Some("Paris"));
        assert_eq!(capital("CAPITAL OF THE NETHERLANDS"), Some("Amsterdam"));
        assert_eq!(capital("Name the capital of South Korea in one word."), Some("Seoul"));
        assert_eq!(capital("é: capital of peru"), Some("Lima"));
        assert_eq!(capital("What is the capital of Francestan?"), None);
        assert_eq!(capital("What is the capital of é?"), None);
        assert_eq!(capital("The capital of "), None);
        assert_eq!(capital("Hello"), None);
    }
}
