//! The models: their list, one model, and whether a name exists.

use serde::Serialize;
use serde_json::Value;

use super::error::{ApiError, invalid_argument};

/// The models of a stand-in.
#[derive(Debug)]
pub(super) struct Models(Vec<String>);

/// One model as the API shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Info {
    name: String,
    version: &'static str,
    display_name: String,
    description: &'static str,
    input_token_limit: u64,
    output_token_limit: u64,
    supported_generation_methods: [&'static str; 4],
    temperature: Value,
    top_p: Value,
    top_k: u64,
    max_temperature: u64,
    thinking: bool,
}

/// One page of models.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    models: Vec<Info>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

impl Models {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Returns whether `model` exists in `version` of the API; the moving names are only in one.
    pub(super) fn has(&self, model: &str, version: &str) -> bool {
        self.0.iter().any(|name| name == model)
            && (version == "v1beta" || !model.ends_with("-latest"))
    }

    /// Returns one model.
    pub(super) fn info(name: &str) -> Info {
        Info {
            name: format!("models/{name}"),
            version: "001",
            display_name: display_name(name),
            description: "A stand-in for the model of this name.",
            input_token_limit: super::sense::INPUT_LIMIT,
            output_token_limit: 65_536,
            supported_generation_methods: [
                "generateContent",
                "countTokens",
                "createCachedContent",
                "batchGenerateContent",
            ],
            temperature: 1.into(),
            top_p: 0.95.into(),
            top_k: 64,
            max_temperature: 2,
            thinking: true,
        }
    }

    /// Returns the page that `token` names, with `size` models at most.
    pub(super) fn page(&self, size: Option<&str>, token: Option<&str>) -> Result<Page, ApiError> {
        let size = page_size(size, 50, 1000)?;
        let start = token.map_or(Some(0), read_token).filter(|&start| start <= self.0.len());
        let Some(start) = start else {
            return Err(invalid_argument("Request contains an invalid argument."));
        };
        let end = (start + size).min(self.0.len());
        let next_page_token = (end < self.0.len()).then(|| format!("page-{end}"));
        let models = self.0[start..end].iter().map(|name| Self::info(name)).collect();
        Ok(Page { models, next_page_token })
    }
}

/// Returns how many entries a page has that is to have `size` of them.
pub(super) fn page_size(
    size: Option<&str>,
    default: usize,
    most: usize,
) -> Result<usize, ApiError> {
    let size = match size {
        None | Some("" | "0") => default,
        Some(text) => text.parse::<usize>().map_err(|_| {
            invalid_argument(format!("Invalid value at 'page_size' (TYPE_INT32), \"{text}\""))
        })?,
    };
    Ok(size.min(most))
}

fn read_token(token: &str) -> Option<usize> {
    if token.is_empty() {
        return Some(0);
    }
    token.strip_prefix("page-")?.parse().ok()
}

fn display_name(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let models = Models::new(["a", "b", "c"].map(str::to_owned).to_vec());
        let first = models.page(Some("2"), None).unwrap();
        assert_eq!(first.models.len(), 2);
        let second = models.page(Some("2"), first.next_page_token.as_deref()).unwrap();
        assert_eq!((second.models.len(), second.next_page_token), (1, None));
        assert_eq!(models.page(None, None).unwrap().models.len(), 3);
        assert!(models.page(None, Some("page-9")).is_err());
        assert!(models.page(Some("x"), None).is_err());
    }

    #[test]
    fn a_model_shows_as_the_api_shows_it() {
        let info = serde_json::to_value(Models::info("gemini-2.5-flash")).unwrap();
        assert_eq!(info["name"], "models/gemini-2.5-flash");
        assert_eq!(info["displayName"], "Gemini 2.5 Flash");
        assert_eq!(info["topP"].to_string(), "0.95");
    }

    #[test]
    fn moving_names_are_only_in_the_beta() {
        let models = Models::new(vec!["gemini-flash-latest".to_owned()]);
        assert!(models.has("gemini-flash-latest", "v1beta"));
        assert!(!models.has("gemini-flash-latest", "v1"));
        assert!(!models.has("gpt", "v1beta"));
    }
}
