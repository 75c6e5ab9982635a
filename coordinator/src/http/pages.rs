//! The dashboard's files, part of the program.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// Path, content type, content.
const FILES: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    (
        "/assets/dashboard.css",
        "text/css; charset=utf-8",
        include_str!("assets/dashboard.css"),
    ),
    (
        "/assets/dashboard.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/dashboard.js"),
    ),
    (
        "/assets/view.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/view.js"),
    ),
    (
        "/assets/orders.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/orders.js"),
    ),
    (
        "/assets/charts.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/charts.js"),
    ),
];

pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, content)| {
            let file = move || async move { ([(header::CONTENT_TYPE, kind)], content).into_response() };
            router.route(path, get(file))
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_the_page_needs_is_served_and_nothing_else() {
        let named: BTreeSet<&str> = FILES
            .iter()
            .flat_map(|(_, _, content)| content.split('"'))
            .filter(|part| part.starts_with("/assets/"))
            .collect();
        let served: BTreeSet<&str> = FILES
            .iter()
            .map(|(path, ..)| *path)
            .filter(|p| *p != "/")
            .collect();
        assert_eq!(named, served);
    }

    /// Names come from users: nothing may be read as markup, and nothing may come from elsewhere.
    #[test]
    fn no_script_writes_markup_and_no_file_leaves_the_host() {
        for (path, _, content) in FILES {
            let content = content.replace("http://www.w3.org/2000/svg", "");
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "http:",
                "https:",
                "url(",
            ] {
                assert!(!content.contains(forbidden), "{path}: {forbidden}");
            }
        }
    }
}
