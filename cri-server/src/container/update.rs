//! A change of a container's resources while it exists.

use super::Resources;

impl Resources {
    /// These with the changes applied: zero and empty mean "as it was", as CRI has it.
    ///
    /// `oom_score_adj` belongs to processes that run already and stays. A swap limit includes memory: when only the
    /// memory limit changes, what there was beyond it stays.
    #[must_use]
    pub fn changed(&self, change: &Resources) -> Resources {
        let number = |old: i64, new: i64| if new == 0 { old } else { new };
        let text = |old: &str, new: &str| if new.is_empty() { old } else { new }.to_owned();
        let memory_limit = number(self.memory_limit, change.memory_limit);
        let beyond = self.memory_swap_limit - self.memory_limit;
        let memory_swap_limit = match (self.memory_swap_limit, change.memory_swap_limit) {
            (1.., 0) if memory_limit > 0 && self.memory_limit > 0 => memory_limit + beyond,
            (1.., 0) if memory_limit < 0 => -1,
            (old, new) => number(old, new),
        };
        let mut hugepages = self.hugepages.clone();
        for (size, limit) in &change.hugepages {
            match hugepages.iter_mut().find(|(known, _)| known == size) {
                Some((_, known)) => *known = *limit,
                None => hugepages.push((size.clone(), *limit)),
            }
        }
        let mut unified = self.unified.clone();
        unified.extend(change.unified.clone());
        Resources {
            cpu_period: number(self.cpu_period, change.cpu_period),
            cpu_quota: number(self.cpu_quota, change.cpu_quota),
            cpu_shares: number(self.cpu_shares, change.cpu_shares),
            memory_limit,
            oom_score_adj: self.oom_score_adj,
            cpuset_cpus: text(&self.cpuset_cpus, &change.cpuset_cpus),
            cpuset_mems: text(&self.cpuset_mems, &change.cpuset_mems),
            hugepages,
            unified,
            memory_swap_limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mentioned_stays() {
        let old = Resources {
            cpu_shares: 512,
            memory_limit: 100,
            memory_swap_limit: 130,
            cpuset_cpus: "0".into(),
            oom_score_adj: 5,
            hugepages: vec![("2MB".into(), 1)],
            ..Resources::default()
        };
        assert_eq!(old.changed(&Resources::default()), old);
        let change = Resources {
            memory_limit: 200,
            oom_score_adj: 9,
            hugepages: vec![("1GB".into(), 2), ("2MB".into(), 3)],
            unified: [("memory.high".to_owned(), "150".to_owned())].into(),
            ..Resources::default()
        };
        let new = old.changed(&change);
        assert_eq!((new.memory_limit, new.memory_swap_limit), (200, 230));
        assert_eq!(
            (new.cpu_shares, new.oom_score_adj, new.cpuset_cpus.as_str()),
            (512, 5, "0")
        );
        assert_eq!(new.hugepages, [("2MB".to_owned(), 3), ("1GB".to_owned(), 2)]);
        assert_eq!(new.unified["memory.high"], "150");
        let unlimited = old.changed(&Resources {
            memory_limit: -1,
            ..Resources::default()
        });
        assert_eq!((unlimited.memory_limit, unlimited.memory_swap_limit), (-1, -1));
    }
}
