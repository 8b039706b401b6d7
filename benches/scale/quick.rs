//! `verify --quick` over a store of 20 ms.

use std::sync::Arc;

use tidewater_tiering::verify::{VerifyRequest, verify};

use crate::cost::{Bench, Cost};
use crate::{Run, archive, shapes};

pub fn run(run: &Run) {
    let table = Cost::table();
    for shape in shapes(run) {
        let archive = archive::make(shape);
        let bench = Bench::new(&archive);
        let request = VerifyRequest { name: archive.name.clone(), quick: true };
        let (report, cost) = bench.cost(verify(Arc::clone(&bench.store), &request, &|_| {}));
        let report = report.expect("there is a root");
        assert!(report.is_whole(), "{:?}", report.findings);
        assert_eq!(report.rows, (shape.rows + shape.tail) * shape.partitions as u64, "it saw every row");
        cost.row(&table, shape.name, "verify --quick");
        bench.world.dissolve();
    }
}
