//! A local stand-in for the Gemini API.
