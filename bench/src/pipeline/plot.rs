//! Packets a second over packet length as a drawing: outbound, one line for each scenario.

use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use plotters::prelude::*;

use super::Scenario;

/// Draws scenario, bytes and million packets a second.
///
/// # Errors
///
/// There is nothing to draw, or no file to draw into.
pub fn draw(points: &[(Scenario, usize, f64)], path: &Path) -> Result<()> {
    let lengths = || points.iter().map(|point| point.1 as f64);
    let longest = lengths()
        .reduce(f64::max)
        .context("no packets of one length were measured")?;
    let shortest = lengths().fold(longest, f64::min);
    let fastest = points.iter().map(|point| point.2).fold(1.0, f64::max);
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (scenario, ..) in points {
        if !scenarios.contains(scenario) {
            scenarios.push(*scenario);
        }
    }

    let root = SVGBackend::new(path, (900, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("the whole worker, outbound", ("sans-serif", 20))
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
        .y_desc("million packets a second")
        .draw()?;
    for (at, scenario) in scenarios.into_iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        let line = points.iter().filter(|point| point.0 == scenario);
        let line = line.map(|point| (point.1 as f64, point.2));
        let name = scenario.to_possible_value();
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)).point_size(3))?
            .label(name.map_or_else(String::new, |name| name.get_name().to_owned()))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(root.present()?)
}
