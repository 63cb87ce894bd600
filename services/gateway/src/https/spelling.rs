//! How header names are spelled. They have no letter case, but the C SDK looks for `ETag` and
//! `ContentType` letter by letter, and several SDKs take the name of a property as it comes.
//!
//! hyper writes small letters, but where a message has a map of spellings among its extensions. It
//! makes that map of the headers that it reads, and lets nobody else make one. So it is given these
//! names to read.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::ready;

use http::{Extensions, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tonic::body::Body;

/// What has hyper write a response's names so: names of headers, in the order of their values.
pub async fn of(names: &[String]) -> Extensions {
    read(names).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "header names go out in small letters: please report this");
        Extensions::new()
    })
}

async fn read(names: &[String]) -> Result<Extensions, hyper::Error> {
    let lines: String = names.iter().map(|name| format!("{name}:\r\n")).collect();
    let head = format!("GET / HTTP/1.0\r\n{lines}\r\n");
    let read = RefCell::new(Extensions::new());
    let service = service_fn(|request: Request<Incoming>| {
        *read.borrow_mut() = request.into_parts().0.extensions;
        ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    });
    http1::Builder::new()
        .preserve_header_case(true)
        .max_headers(names.len())
        // The request is all there is to read. A task whose turn is over has its answer wait, and
        // hyper takes the end that it reads meanwhile for the client's, who has gone.
        .half_close(true)
        .serve_connection(
            TokioIo::new(tokio::io::join(head.as_bytes(), tokio::io::sink())),
            service,
        )
        .await?;
    Ok(read.into_inner())
}

#[cfg(test)]
mod tests {
    use tokio::task::coop;

    use super::*;

    /// As hyper writes them.
    async fn written(names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let spelled = of(&names).await;
        let (client, server) = tokio::io::duplex(1 << 20);
        let service = service_fn(|_: Request<Incoming>| {
            let mut response = Response::new(Body::empty());
            for name in &names {
                let name = http::HeaderName::try_from(name).expect("a name");
                response.headers_mut().append(name, http::HeaderValue::from_static("x"));
            }
            *response.extensions_mut() = spelled.clone();
            ready(Ok::<_, Infallible>(response))
        });
        let served = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let asked = async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut from, mut to) = tokio::io::split(client);
            to.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("asked");
            let mut answer = String::new();
            from.read_to_string(&mut answer).await.expect("answered");
            answer
        };
        let (served, answer) = tokio::join!(served, asked);
        served.expect("served");
        answer
    }

    #[tokio::test]
    async fn names_go_out_as_they_are_spelled() {
        let many: Vec<String> = (0..500).map(|n| format!("iothub-app-Name{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for names in [
            &["ETag", "ContentType", "iothub-messageid", "iothub-app-aB", "iothub-app-Ab"][..],
            &[],
            &many,
        ] {
            let answer = written(names).await;
            for name in names {
                assert!(answer.contains(&format!("\r\n{name}: x\r\n")), "{name}: {answer}");
            }
        }
    }

    #[tokio::test]
    async fn names_are_read_by_a_task_whose_turn_is_over() {
        let names = ["ETag".to_owned()];
        while coop::has_budget_remaining() {
            coop::consume_budget().await;
        }
        assert!(!read(&names).await.expect("read").is_empty());
    }
}
