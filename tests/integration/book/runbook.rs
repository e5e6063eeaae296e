//! `docs/runbook.md` and the table of `docs/monitoring.md` have every alert, and each alert leads to its section.

use std::collections::BTreeSet;

use serde_json::Value;

use super::page::{Page, anchor, text_of};

struct Alert {
    name: String,
    runbook: String,
}

fn alerts() -> Vec<Alert> {
    let rules: Value = serde_saphyr::from_str(&text_of("monitoring/alerts.yaml")).unwrap();
    let rules =
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rules
        .map(|rule| Alert { name: text(&rule["alert"]), runbook: text(&rule["annotations"]["runbook"]) })
        .collect()
}

fn names() -> BTreeSet<String> {
    alerts().into_iter().map(|alert| alert.name).collect()
}

#[test]
fn every_alert_has_its_section() {
    let runbook = Page::read("docs/runbook.md");
    let sections = runbook.sections.iter().map(|section| section.title.clone()).skip(1);
    assert_eq!(sections.collect::<BTreeSet<_>>(), names());
    for section in &runbook.sections[1..] {
        for part in ["**Means.** ", "**Look at.** ", "**Do.** "] {
            assert!(section.prose.contains(part), "{} has no {part}", section.title);
        }
    }
}

#[test]
fn every_alert_leads_to_its_section() {
    for alert in alerts() {
        assert_eq!(alert.runbook, format!("docs/runbook.md#{}", anchor(&alert.name)), "{}", alert.name);
    }
}

#[test]
fn the_table_of_alerts_has_all_of_them() {
    let page = text_of("docs/monitoring.md");
    let rows = page.lines().filter(|line| line.starts_with("| [`Keyringd"));
    let links = rows.flat_map(|row| row.split("[`").skip(1));
    let listed: BTreeSet<_> = links.filter_map(|link| Some(link.split_once('`')?.0.to_owned())).collect();
    assert_eq!(listed, names());
}
