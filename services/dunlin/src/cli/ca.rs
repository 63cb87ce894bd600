//! `dunlin ca …`: the CA certificates that vouch for devices.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::LoginArgs;
use super::failure::Failure;
use super::identity::{rows, text};
use super::output::{self, line, table};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Upload a CA certificate. It counts for nothing until it is verified.
    #[command(after_help = "Example:\n  dunlin ca add -n factory --path ca.pem")]
    Add {
        #[command(flatten)]
        ca: CaArgs,
        /// The certificate, in PEM form.
        #[arg(long, short = 'p', value_name = "FILE")]
        path: PathBuf,
        /// Print the certificate as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prove that you hold the CA's key. Without a file: get the code to sign, and how.
    #[command(after_help = "\
Example: the code and the commands that sign it, then the proof
  dunlin ca verify -n factory
  dunlin ca verify -n factory --path proof.pem")]
    Verify {
        #[command(flatten)]
        ca: CaArgs,
        /// A certificate, in PEM form, of the code and signed by the CA.
        #[arg(long, short = 'p', value_name = "FILE")]
        path: Option<PathBuf>,
        /// Print the certificate, and the code if there is one, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the CA certificates.
    #[command(after_help = "Example:\n  dunlin ca list --json")]
    List {
        #[command(flatten)]
        login: LoginArgs,
        /// Print whole certificates as a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Show a CA certificate as JSON.
    #[command(after_help = "Example:\n  dunlin ca show -n factory")]
    Show {
        #[command(flatten)]
        ca: CaArgs,
        /// Taken for the sake of scripts: it is JSON in any case.
        #[arg(long)]
        json: bool,
    },
    /// Remove a CA certificate: devices that it vouches for can connect no more.
    #[command(after_help = "Example:\n  dunlin ca delete -n factory")]
    Delete {
        #[command(flatten)]
        ca: CaArgs,
        /// Only if this is the current ETag.
        #[arg(long)]
        etag: Option<String>,
    },
}

#[derive(Args)]
pub(super) struct CaArgs {
    /// Name of the certificate.
    #[arg(long, short = 'n', visible_alias = "certificate-name", value_name = "NAME")]
    name: String,
    #[command(flatten)]
    login: LoginArgs,
}

const COLUMNS: [(&str, &str); 3] =
    [("NAME", "/name"), ("SUBJECT", "/subject"), ("EXPIRY", "/expiry")];

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Add { ca, path, json } => {
            let pem = read(&path)?;
            let added = ca.login.client()?.certificate_add(&ca.name, &pem).await?;
            if json {
                return output::json(&added);
            }
            line(&format!("added {}: {}", ca.name, text(&added, "/subject")))?;
            line(&format!("next, prove that you hold its key: dunlin ca verify -n {}", ca.name))
        }
        Command::Verify { ca, path: Some(path), json } => {
            let pem = read(&path)?;
            let verified = ca.login.client()?.certificate_verify(&ca.name, &pem).await?;
            if json {
                return output::json(&verified);
            }
            line(&format!("{} is verified: devices with its certificates may connect", ca.name))
        }
        Command::Verify { ca, path: None, json } => {
            let asked = ca.login.client()?.certificate_code(&ca.name).await?;
            if json { output::json(&asked) } else { explain(&ca.name, &asked) }
        }
        Command::List { login, json } => {
            let all = login.client()?.certificate_list().await?;
            if json {
                return output::json(&all);
            }
            let mut rows = rows(&all, &COLUMNS);
            let verified = all.as_array().into_iter().flatten().map(|ca| &ca["isVerified"]);
            let words = verified.map(|is| if is == true { "yes" } else { "no" });
            for (row, word) in rows.iter_mut().zip(std::iter::once("VERIFIED").chain(words)) {
                row.push(word.to_owned());
            }
            table(&rows)
        }
        Command::Show { ca, .. } => {
            output::json(&ca.login.client()?.certificate_get(&ca.name).await?)
        }
        Command::Delete { ca, etag } => {
            let etag = etag.as_deref().unwrap_or("*");
            ca.login.client()?.certificate_delete(&ca.name, etag).await?;
            line(&format!("deleted {}", ca.name))
        }
    }
}

fn explain(name: &str, asked: &Value) -> Result<(), Failure> {
    let code = text(asked, "/verificationCode");
    line(&format!("the code to sign: {code}"))?;
    line(
        "sign it with the CA's key (here ca.key; its certificate ca.pem), and hand in the proof:",
    )?;
    line(&format!(
        "  openssl req -new -newkey rsa:2048 -nodes -keyout proof.key -subj /CN={code} -out proof.csr"
    ))?;
    line("  printf 'basicConstraints=CA:FALSE\\n' > proof.ext")?;
    line(
        "  openssl x509 -req -in proof.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 \
         -extfile proof.ext -out proof.pem",
    )?;
    line(&format!("  dunlin ca verify -n {name} --path proof.pem"))
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--path: cannot read {} as PEM", path.display()));
    text.map_err(|error| Failure::Usage(format!("{error:#}")))
}
