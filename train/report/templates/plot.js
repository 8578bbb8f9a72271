const dark = matchMedia("(prefers-color-scheme: dark)"), narrow = matchMedia("(max-width: 48rem)");
const ink = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// What a page holds is compressed; every browser since 2023 can unpack it by itself.
async function inflate(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}
async function loadPlotly() {
  const script = document.createElement("script");
  script.textContent = await inflate("plotly");
  document.head.append(script);
}

// On a dark page each colour has a lighter one of the same hue.
const recoloured = (figure, colours) => dark.matches
  ? JSON.parse(colours.reduce((text, [light, lighter]) => text.replaceAll(light, lighter), JSON.stringify(figure))) : structuredClone(figure);

function layoutOf(figure, look) {
  const layout = {showlegend: false, hovermode: "closest", ...figure.layout};
  Object.assign(layout, {paper_bgcolor: look.paper, plot_bgcolor: look.paper, margin: {l: 58, r: 12, t: 14, b: 48}});
  layout.font = {color: look.ink, family: "system-ui, sans-serif", size: narrow.matches ? 11 : 12};
  for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key))
    layout[key] = {...layout[key], gridcolor: look.line, zerolinecolor: look.line, linecolor: look.line, automargin: true};
  return layout;
}
const here = () => ({ink: ink("--ink"), line: ink("--line"), paper: "rgba(0,0,0,0)"});
const CONFIG = {responsive: true, displaylogo: false, displayModeBar: false};
