// A page whose figures are drawn as they are, each with its own legend.
async function begin() {
  const {figures, colours} = JSON.parse(await inflate("data"));
  await loadPlotly();
  const draw = () => Promise.all(Object.entries(figures).map(([id, figure]) => {
    const own = recoloured(figure, colours), layout = layoutOf(own, here());
    Object.assign(layout, {showlegend: true, legend: {orientation: "h", y: 1.02, yanchor: "bottom"}, margin: {...layout.margin, t: 60}});
    return Plotly.react("plot-" + id, own.data, layout, CONFIG);
  }));
  dark.addEventListener("change", draw);
  await draw();
  document.documentElement.dataset.drawn = "true";
}
begin();
