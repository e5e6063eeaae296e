//! The settings of the login to Vault: one definition that gives `keyring_vault_*` and, for references, `vault_hcv_*`.

use std::path::PathBuf;

use url::Url;

use crate::settings::{
    pem,
    setting::{Content, Parser, Row, Setting},
    value::{self, SecretPath},
};

/// How to log in.
#[derive(Clone, Copy, Debug)]
pub enum Method {
    Token,
    Kubernetes,
    AppRole,
    Cert,
    Jwt,
}

const METHOD: Parser<Method> = Parser::Words(&[
    ("token", Method::Token),
    ("kubernetes", Method::Kubernetes),
    ("approle", Method::AppRole),
    ("cert", Method::Cert),
    ("jwt", Method::Jwt),
    ("oauth2", Method::Jwt),
]);

/// Defines [`LoginSettings`] and its two values. A row is `field [| alias]: type = about, parser, flags`; a setting is
/// called like its field, behind the prefix.
macro_rules! login_settings {
    ($($field:ident $(| $alias:ident)?: $type:ty = $about:literal, $parser:expr, [$($flags:tt)*];)*) => {
        /// The settings of one login.
        #[derive(Debug)]
        pub struct LoginSettings {
            /// The start of each name.
            pub prefix: &'static str,
            $(pub $field: Setting<$type>,)*
        }

        impl LoginSettings {
            pub fn rows(&'static self) -> impl Iterator<Item = &'static dyn Row> {
                [$(&self.$field as &dyn Row),*].into_iter()
            }
        }

        pub static KEYRING_LOGIN: LoginSettings = LoginSettings {
            prefix: "keyring_vault_",
            $($field: Setting::new(concat!("keyring_vault_", stringify!($field)), $about, $parser)
                $(.alias(concat!("keyring_vault_", stringify!($alias))))?
                $($flags)*,)*
        };

        pub static REFERENCES_LOGIN: LoginSettings = LoginSettings {
            prefix: "vault_hcv_",
            $($field: Setting::new(
                    concat!("vault_hcv_", stringify!($field)),
                    concat!("For references: as keyring_vault_", stringify!($field), "."),
                    $parser,
                )
                $(.alias(concat!("vault_hcv_", stringify!($alias))))?
                $($flags)*
                .kong(),)*
        };
    };
}

login_settings! {
    auth_method: Method = "The method to log in with; oauth2 is another name for jwt.", METHOD,
        [.default("token").kong().reject_empty()];
    token: () = "For token: the token.", value::TOKEN, [.content(Content::Secret).kong()];
    kube_role: String = "For kubernetes: the role to log in to.", Parser::text("a role in Vault"),
        [.default("default").kong()];
    kube_api_token_file: PathBuf = "For kubernetes: the file with the service account's token, read at each login.",
        value::PATH, [.default("/run/secrets/kubernetes.io/serviceaccount/token").kong()];
    kube_auth_path: SecretPath = "For kubernetes: the mount of the auth method.", value::SECRET_PATH,
        [.default("kubernetes")];
    approle_auth_path: SecretPath = "For approle: the mount of the auth method.", value::SECRET_PATH,
        [.default("approle")];
    approle_role_id: String = "For approle: the role ID.", Parser::text("a role ID"), [];
    approle_secret_id: () = "For approle: the secret ID, or the token that wraps it.", value::SECRET_ID,
        [.content(Content::Secret)];
    approle_secret_id_file: PathBuf = "For approle: a file with the secret ID instead, read at each login.",
        value::PATH, [];
    approle_response_wrapping: bool = "For approle: the secret ID is response-wrapped and is unwrapped once.",
        value::BOOLEAN, [.default("off")];
    cert_auth_path: SecretPath = "For cert: the mount of the auth method.", value::SECRET_PATH, [.default("cert")];
    cert_auth_cert: () = "For cert: the client certificate with its intermediates; a file is read at each login.",
        pem::CERTIFICATES, [.content(Content::Pem)];
    cert_auth_cert_key: () = "For cert: the private key of the certificate.", pem::PRIVATE_KEY,
        [.content(Content::Pem)];
    cert_auth_role_name: String = "For cert: the role to log in to; any role that matches unless set.",
        Parser::text("a role in Vault"), [];
    jwt_auth_path: SecretPath = "For jwt: the mount of the auth method.", value::SECRET_PATH, [.default("jwt")];
    jwt_role | oauth2_role_name: String = "For jwt: the role to log in to; the default role of the mount unless set.",
        Parser::text("a role in Vault"), [];
    jwt_file: PathBuf = "For jwt: a file with the JWT, read at each login.", value::PATH, [];
    oauth2_token_endpoint: Url = "For jwt: the OAuth 2.0 token endpoint that issues the JWT instead.",
        value::ENDPOINT_URL, [];
    oauth2_client_id: String = "For jwt: the client ID at that endpoint.", Parser::text("a client ID"), [];
    oauth2_client_secret: () = "For jwt: the client secret at that endpoint.",
        Parser::Text { accepts: "a client secret", convert: |_| Some(()) }, [.content(Content::Secret)];
    oauth2_audiences: Vec<String> = "For jwt: the audiences to request.", value::LIST, [];
}
