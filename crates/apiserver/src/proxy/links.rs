//! Links in what a pod answers: those that lead back to it are made to lead through the proxy, as Kubernetes does, so that a
//! page can be looked at in a browser.

/// Attributes that hold a URL, by element (HTML 4.01's index of attributes, and HTML 5).
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is text, whatever it looks like.
const TEXT: &[&str] = &["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"];

/// What is known of the page.
pub(super) struct Page<'a> {
    /// What comes before the path at this server: `/api/v1/namespaces/x/pods/y/proxy`, or nothing.
    pub prefix: &'a str,
    /// The host that was asked: address and port.
    pub backend: &'a str,
    /// The host that the client asked: its `Host` header.
    pub asked: &'a str,
}

impl Page<'_> {
    /// The link as the client must follow it; `None` when it stays as it is.
    pub fn link(&self, link: &str) -> Option<String> {
        let (base, path) = split(link);
        let host = base.rsplit('/').next().unwrap_or("");
        let other = !base.is_empty() && host != self.backend && host != self.asked;
        // A relative link stays below the prefix by itself.
        if other || !(path.starts_with('/') || path.is_empty() && !base.is_empty()) {
            return None;
        }
        let kept = if host == self.asked { base } else { "" };
        let prefix = if path.starts_with(self.prefix) { "" } else { self.prefix };
        let path = if path.is_empty() { "/" } else { path };
        let out = format!("{kept}{prefix}{path}");
        (out != link).then_some(out)
    }

    /// An HTML document with its links changed.
    pub fn html(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 256);
        let mut rest = text;
        while let Some(at) = rest.find('<') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(comment) = rest.strip_prefix("<!--") {
                let end = comment.find("-->").map_or(rest.len(), |end| end + "<!---->".len());
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            let name = element(&rest[1..]);
            if name.is_empty() {
                out.push('<');
                rest = &rest[1..];
                continue;
            }
            let name = name.to_ascii_lowercase();
            rest = self.tag(&name, rest, &mut out);
            if TEXT.contains(&name.as_str()) {
                let end = closing(rest, &name).unwrap_or(rest.len());
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
        out.push_str(rest);
        out
    }

    /// Copies a start tag; gives what follows it.
    fn tag<'t>(&self, name: &str, tag: &'t str, out: &mut String) -> &'t str {
        let links = LINKS.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, links)| links);
        let head = 1 + name.len();
        out.push_str(&tag[..head]);
        let mut rest = &tag[head..];
        loop {
            let start = rest.find(|c: char| !c.is_ascii_whitespace() && c != '/').unwrap_or(rest.len());
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            if rest.is_empty() || rest.starts_with('>') {
                return rest;
            }
            let end =
                rest.find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/')).unwrap_or(rest.len());
            // A stray `=` is a name of its own, or this would not end.
            let end = end.max(1);
            let attribute = rest[..end].to_ascii_lowercase();
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            let after = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
            let Some(value) = after.strip_prefix('=') else { continue };
            let value = value.trim_start_matches(|c: char| c.is_ascii_whitespace());
            out.push_str(&rest[..rest.len() - value.len()]);
            let (quote, value) = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => (Some(quote), &value[1..]),
                _ => (None, value),
            };
            let end = match quote {
                Some(quote) => value.find(quote),
                None => value.find(|c: char| c.is_ascii_whitespace() || c == '>'),
            };
            let end = end.unwrap_or(value.len());
            out.extend(quote);
            let changed = links.contains(&attribute.as_str()).then(|| self.link(&value[..end])).flatten();
            out.push_str(changed.as_deref().unwrap_or(&value[..end]));
            // The closing quote is copied as the beginning of what follows.
            rest = &value[end..];
            if let Some(quote) = quote
                && let Some(after) = rest.strip_prefix(quote)
            {
                out.push(quote);
                rest = after;
            }
        }
    }
}

/// Scheme and host, and the rest of a URL; the first is empty when there is no host.
fn split(link: &str) -> (&str, &str) {
    let slashes = match link.find("//") {
        Some(0) => 0,
        Some(at) if link[..at].ends_with(':') && !link[..at].contains(['/', '?', '#']) => at,
        _ => return ("", link),
    };
    let host = slashes + 2;
    let end = link[host..].find(['/', '?', '#']).map_or(link.len(), |end| host + end);
    link.split_at(end)
}

/// The name of the element that a start tag opens; empty for anything else.
fn element(tag: &str) -> &str {
    let end = tag.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tag.len());
    if tag.starts_with(|c: char| c.is_ascii_alphabetic()) { &tag[..end] } else { "" }
}

/// Where the element is closed.
fn closing(text: &str, name: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].find("</") {
        let at = from + at;
        if element(&text[at + 2..]).eq_ignore_ascii_case(name) {
            return Some(at);
        }
        from = at + 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page<'_> = Page { prefix: "/p/proxy", backend: "10.0.0.7:80", asked: "localhost:8001" };

    #[test]
    fn links_to_the_backend_lead_through_the_proxy() {
        for (link, want) in [
            ("/rewriteme", "/p/proxy/rewriteme"),
            ("/a?b=/c#d", "/p/proxy/a?b=/c#d"),
            ("/", "/p/proxy/"),
            ("http://10.0.0.7:80/a/", "/p/proxy/a/"),
            ("//10.0.0.7:80", "/p/proxy/"),
            ("http://localhost:8001/a", "http://localhost:8001/p/proxy/a"),
            ("/p/proxy/a", "/p/proxy/a"),
            ("a/b", "a/b"),
            ("#x", "#x"),
            ("mailto:a@b", "mailto:a@b"),
            ("https://example.org/a", "https://example.org/a"),
            ("//example.org/a", "//example.org/a"),
            ("?next=//x", "?next=//x"),
        ] {
            assert_eq!(PAGE.link(link).as_deref().unwrap_or(link), want, "{link}");
        }
    }

    #[test]
    fn only_links_of_a_document_change() {
        let html = |text: &str| PAGE.html(text);
        assert_eq!(html(r#"<a href="/rewriteme">test</a>"#), r#"<a href="/p/proxy/rewriteme">test</a>"#);
        assert_eq!(html("<IMG alt=/x SRC='/y'/>"), "<IMG alt=/x SRC='/p/proxy/y'/>");
        assert_eq!(html("<link href=/a.css>"), "<link href=/p/proxy/a.css>");
        for same in [
            "a < b, <",
            "<p title='/x'>/x</p>",
            "<!-- <a href='/x'> -->",
            "<script>'<a href=\"/x\">'</script>",
            "<a href='/unclosed",
            "<a href='/p/proxy/x'>ä</a>",
            "<a = = '/x'>",
        ] {
            let want = if same.contains("unclosed") { "<a href='/p/proxy/unclosed" } else { same };
            assert_eq!(html(same), want);
        }
        assert_eq!(
            html("<script src=/x>'</a>'</script><a href=/y>"),
            "<script src=/p/proxy/x>'</a>'</script><a href=/p/proxy/y>"
        );
    }
}
