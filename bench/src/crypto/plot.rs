//! Throughput over packet length as a drawing: sealing under one SA, out of place, with the first algorithm.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::candidate::Direction;
use super::report::Row;
use crate::timing::Bytes;

/// Draws one line for each engine.
///
/// # Errors
///
/// There is nothing to draw, or no file to draw into.
pub fn draw(rows: &[Row], path: &Path) -> Result<()> {
    let mut lines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    let algorithm = rows.first().map_or("", |row| row.algorithm.as_str());
    for row in rows {
        let plainest = !row.in_place && !row.beyond_l2 && row.sas == 1;
        if let Bytes::Length(length) = row.bytes
            && (row.algorithm.as_str(), row.direction) == (algorithm, Direction::Seal)
            && plainest
        {
            let length = length as f64;
            lines
                .entry(row.engine)
                .or_default()
                .push((length, 8.0 * length / row.ns_per_packet));
        }
    }
    let points = || lines.values().flatten();
    let longest = points()
        .map(|point| point.0)
        .reduce(f64::max)
        .context("nothing was sealed out of place under one SA")?;
    let shortest = points().map(|point| point.0).fold(longest, f64::min);
    let fastest = points().map(|point| point.1).fold(1.0, f64::max);

    let root = SVGBackend::new(path, (900, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("{algorithm}, seal, one core, one SA"),
            ("sans-serif", 20),
        )
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            (shortest * 0.9..longest * 1.1).log_scale(),
            0.0..fastest * 1.1,
        )?;
    chart
        .configure_mesh()
        .x_desc("bytes")
        .y_desc("Gbit/s")
        .draw()?;
    for (at, (engine, line)) in lines.into_iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)).point_size(3))?
            .label(engine)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(root.present()?)
}
