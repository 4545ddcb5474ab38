//! Answering a registry's challenge: Basic, or Bearer tokens from the service it names
//! (distribution's token authentication; OAuth2 for refresh tokens).

use std::net::IpAddr;

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Url};
use serde::Deserialize;

use super::RegistryError;
use super::answer::{self, bounded_body};
use super::credentials::Credentials;

const LARGEST_TOKEN_ANSWER: usize = 256 << 10;
/// A challenge is a line, not a book.
const LONGEST_CHALLENGE: usize = 8 << 10;

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The strongest challenge of an answer that is understood.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let texts = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let mut basic = None;
        for text in texts.filter(|text| text.len() <= LONGEST_CHALLENGE) {
            match parse(text) {
                Some(Self::Basic) => basic = Some(Self::Basic),
                Some(bearer) => return Some(bearer),
                None => {}
            }
        }
        basic
    }
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    for (key, value) in parameters(rest)? {
        match key.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer {
        realm: realm?,
        service,
        scope,
    })
}

/// `key="value", key=token` (RFC 9110, section 11.2).
fn parameters(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([' ', ',', '\t']);
        if text.is_empty() {
            return Some(found);
        }
        let (key, rest) = text.split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.find([',', ' ']).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        found.push((key.trim().to_owned(), value));
        text = rest;
    }
}

fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// Who asks whom for what.
pub(super) struct TokenRequest<'a> {
    pub(super) client: &'a Client,
    pub(super) registry: &'a str,
    /// The endpoint that sent the challenge.
    pub(super) endpoint: &'a Url,
    pub(super) repository: &'a str,
    /// What is to be done there: `pull`, or `pull,push`.
    pub(super) actions: &'a str,
    pub(super) credentials: &'a Credentials,
}

impl TokenRequest<'_> {
    /// The value of the `Authorization` header that meets the challenge; `None` when there is
    /// nothing to offer.
    pub(super) async fn authorize(&self, challenge: Challenge) -> Result<Option<HeaderValue>, RegistryError> {
        match (challenge, self.credentials) {
            (_, Credentials::RegistryToken(token)) => self.header("Bearer", token).map(Some),
            (Challenge::Basic, Credentials::Basic { username, password }) => {
                self.header("Basic", &basic(username, password)).map(Some)
            }
            (Challenge::Basic, _) => Ok(None),
            (
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
                _,
            ) => {
                let realm = self.vet(&realm)?;
                let token = self.token(realm, service, scope).await?;
                self.header("Bearer", &token).map(Some)
            }
        }
    }

    /// A registry names its token service freely; it must not be a way to send credentials in
    /// the clear, or a request to where only this machine can reach.
    fn vet(&self, realm: &str) -> Result<Url, RegistryError> {
        let refused = |problem| RegistryError::Protocol {
            registry: self.registry.into(),
            problem,
        };
        let realm = Url::parse(realm).map_err(|_| refused("its token service has a malformed address"))?;
        let elsewhere = realm.host_str() != self.endpoint.host_str();
        match realm.scheme() {
            "https" => {}
            // Who was declared insecure is so for itself: secrets go to no other host in the clear.
            "http" if self.endpoint.scheme() == "http" => {
                if elsewhere && !matches!(self.credentials, Credentials::Anonymous) {
                    return Err(refused(
                        "its token service is another host, and not reached by https",
                    ));
                }
            }
            _ => return Err(refused("its token service is not reached by https")),
        }
        if !realm.username().is_empty() || realm.password().is_some() {
            return Err(refused("its token service's address has a user or password"));
        }
        if elsewhere && realm.host_str().is_none_or(is_inward) {
            return Err(refused("its token service is an address of this machine or link"));
        }
        Ok(realm)
    }

    async fn token(
        &self,
        mut realm: Url,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<String, RegistryError> {
        let scope = scope.unwrap_or_else(|| format!("repository:{}:{}", self.repository, self.actions));
        let service = service.unwrap_or_default();
        let request = if let Credentials::IdentityToken(token) = self.credentials {
            let form = [
                ("grant_type", "refresh_token"),
                ("service", &service),
                ("scope", &scope),
                ("client_id", "crisp"),
                ("refresh_token", token),
            ];
            let mut body = Url::parse("http://form").map_err(|_| self.malformed())?;
            body.query_pairs_mut().extend_pairs(form);
            self.client
                .post(realm)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body.query().unwrap_or_default().to_owned())
        } else {
            realm
                .query_pairs_mut()
                .append_pair("service", &service)
                .append_pair("scope", &scope);
            let request = self.client.get(realm);
            match self.credentials {
                Credentials::Basic { username, password } => request.basic_auth(username, Some(password)),
                _ => request,
            }
        };
        let mut answer = request.send().await.map_err(|error| RegistryError::Unavailable {
            registry: self.registry.into(),
            detail: format!("its token service: {}", answer::cause(&error)),
        })?;
        let status = answer.status();
        if !status.is_success() {
            return Err(answer::refusal(self.registry, "its token service", &mut answer).await);
        }
        let body = bounded_body(&mut answer, LARGEST_TOKEN_ANSWER)
            .await
            .map_err(|_| self.malformed())?;
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| self.malformed())?;
        [answer.token, answer.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty())
            .ok_or_else(|| self.malformed())
    }

    fn header(&self, scheme: &str, value: &str) -> Result<HeaderValue, RegistryError> {
        let mut header = HeaderValue::try_from(format!("{scheme} {value}")).map_err(|_| self.malformed())?;
        header.set_sensitive(true);
        Ok(header)
    }

    fn malformed(&self) -> RegistryError {
        RegistryError::Protocol {
            registry: self.registry.into(),
            problem: "its token service answers nonsense",
        }
    }
}

/// Whether only this machine, or those on its link, reach a host.
fn is_inward(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.');
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(v4)) => v4.is_link_local() || v4.is_loopback() || v4.is_unspecified(),
        Ok(IpAddr::V6(v6)) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local(),
        // RFC 6761, 6.3; the parser of URLs has made it lower case.
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

fn basic(username: &str, password: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn reads_challenges() {
        assert_eq!(
            parse(r#"Bearer realm="https://auth.io/token",service="reg",scope="repository:a/b:pull,push""#),
            Some(bearer(
                "https://auth.io/token",
                Some("reg"),
                Some("repository:a/b:pull,push")
            ))
        );
        assert_eq!(
            parse(r#"bearer  realm="a\"b" , service=x"#),
            Some(bearer("a\"b", Some("x"), None))
        );
        assert_eq!(parse("Basic realm=x"), Some(Challenge::Basic));
        assert_eq!(parse("Bearer service=x"), None);
        assert_eq!(parse(r#"Bearer realm="open"#), None);
        assert_eq!(parse("Negotiate"), None);
    }

    fn vet_for(credentials: &Credentials, endpoint: &str, realm: &str) -> bool {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let request = TokenRequest {
            client: &Client::builder().tls_certs_only([]).build().unwrap(),
            registry: "r",
            endpoint: &Url::parse(endpoint).unwrap(),
            repository: "a",
            actions: "pull",
            credentials,
        };
        request.vet(realm).is_ok()
    }

    #[test]
    fn vets_the_token_service() {
        let vet = |endpoint: &str, realm: &str| vet_for(&Credentials::Anonymous, endpoint, realm);
        assert!(vet("https://r.io/v2/", "https://auth.r.io/token"));
        assert!(!vet("https://r.io/v2/", "http://auth.r.io/token"));
        assert!(!vet("https://r.io/v2/", "http://r.io/token"));
        assert!(vet("http://r.io/v2/", "http://auth.r.io/token"));
        for inward in [
            "169.254.169.254",
            "127.0.0.1",
            "2130706433",
            "0.0.0.0",
            "[::1]",
            "[::ffff:169.254.169.254]",
            "[fe80::1]",
            "localhost",
            "LOCALHOST.",
            "any.localhost",
        ] {
            assert!(
                !vet("https://r.io/v2/", &format!("https://{inward}/token")),
                "{inward}"
            );
            assert!(
                !vet("http://r.io/v2/", &format!("http://{inward}/token")),
                "{inward}"
            );
        }
        assert!(!vet("https://r.io/v2/", "https://user@auth.r.io/token"));
        assert!(!vet("https://r.io/v2/", "file:///etc/passwd"));
        assert!(!vet("https://r.io/v2/", "/token"));
        assert!(vet("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/token"));
    }

    #[test]
    fn secrets_go_to_no_other_host_in_the_clear() {
        let password = Credentials::Basic {
            username: "me".into(),
            password: "secret".into(),
        };
        for credentials in [password, Credentials::IdentityToken("secret".into())] {
            let vet = |endpoint: &str, realm: &str| vet_for(&credentials, endpoint, realm);
            assert!(!vet("http://r.io/v2/", "http://auth.r.io/token"));
            assert!(!vet("http://10.0.0.1:5000/v2/", "http://10.0.0.2:5000/token"));
            assert!(vet("http://r.io:5000/v2/", "http://r.io:5001/token"));
            assert!(vet("http://r.io/v2/", "https://auth.r.io/token"));
        }
    }
}
