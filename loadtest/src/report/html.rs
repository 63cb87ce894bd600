//! A report as one page that needs nothing else: its style, the report as JSON, and a script of ours
//! that shows it.

use anyhow::Result;

use super::Report;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One after the other: how a plot is drawn, and what is.
const SCRIPT: [&str; 2] = [include_str!("page/plot.js"), include_str!("page/page.js")];

impl Report {
    pub fn page(&self) -> Result<String> {
        Ok(PAGE
            .replace("/*STYLE*/", STYLE)
            .replace("/*SCRIPT*/", &SCRIPT.concat())
            // Last: what it holds is not looked at again.
            .replacen("/*REPORT*/", &embedded(&serde_json::to_string(self)?), 1))
    }
}

/// JSON that no text in it can end the element it stands in. The page puts texts into its document
/// as text, never as markup.
fn embedded(json: &str) -> String {
    json.replace('<', "\\u003c")
}
