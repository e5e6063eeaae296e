//! Series in a fixed order, so that two scrapes differ only in their values.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric},
    registry::{Metric, Registry, Unit},
};

/// The series of one metric by their labels. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Series<L, M>(Arc<Mutex<BTreeMap<L, M>>>);

impl<L, M> Default for Series<L, M> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<L: Clone + Ord, M: Clone + Default> Series<L, M> {
    /// The series with these labels, which exists from then on.
    pub(super) fn get_or_create(&self, labels: &L) -> M {
        self.lock().entry(labels.clone()).or_default().clone()
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<L, M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L, M> EncodeMetric for Series<L, M>
where
    L: Clone + Ord + EncodeLabelSet,
    M: Clone + Default + EncodeMetric + TypedMetric,
{
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, metric) in self.lock().iter() {
            metric.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

/// A metric that is registered under this name.
pub(super) fn registered<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Option<Unit>,
) -> M {
    let metric = M::default();
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric.clone()),
        None => registry.register(name, help, metric.clone()),
    }
    metric
}

/// A text of metrics with its metrics in the order of their names. Each begins with its `# HELP`.
pub(super) fn sorted(text: &str) -> String {
    const START: &str = "# HELP ";
    let mut metrics: Vec<_> = text.split(START).filter(|metric| !metric.is_empty()).collect();
    metrics.sort_unstable();
    metrics.iter().fold(String::with_capacity(text.len()), |sorted, metric| sorted + START + metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_sorted_by_name() {
        let (a, b) = ("# HELP a A.\n# TYPE a gauge\na 1\n", "# HELP b B.\n# TYPE b gauge\nb 1\n");
        assert_eq!(sorted(&[b, a].concat()), [a, b].concat());
    }
}
