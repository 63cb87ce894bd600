//! CA certificates, of the client.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{Client, ClientError, encoded, quoted};

const CERTIFICATES: &str = "/dunlin/v1/certificates";

impl Client {
    pub async fn certificate_list(&self) -> Result<Value, ClientError> {
        self.call(self.request(Method::GET, CERTIFICATES)).await
    }

    pub async fn certificate_get(&self, name: &str) -> Result<Value, ClientError> {
        self.call(self.certificate(Method::GET, name, "")).await
    }

    /// One that is there stays as it is, and is an error.
    pub async fn certificate_add(&self, name: &str, pem: &str) -> Result<Value, ClientError> {
        let body = json!({ "certificate": pem });
        self.call(self.certificate(Method::PUT, name, "").json(&body)).await
    }

    /// The certificate with a new code to sign.
    pub async fn certificate_code(&self, name: &str) -> Result<Value, ClientError> {
        self.call(self.certificate(Method::POST, name, "/generate-verification-code")).await
    }

    /// `pem`: a certificate of the code, signed by the CA.
    pub async fn certificate_verify(&self, name: &str, pem: &str) -> Result<Value, ClientError> {
        let body = json!({ "certificate": pem });
        self.call(self.certificate(Method::POST, name, "/verify").json(&body)).await
    }

    pub async fn certificate_delete(&self, name: &str, etag: &str) -> Result<(), ClientError> {
        let request = self.certificate(Method::DELETE, name, "").header("if-match", quoted(etag));
        self.call(request).await.map(drop)
    }

    fn certificate(&self, method: Method, name: &str, what: &str) -> RequestBuilder {
        self.request(method, &format!("{CERTIFICATES}/{}{what}", encoded(name)))
    }
}
