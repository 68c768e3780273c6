use autopeft::progress::*;
struct P;
impl Progress for P {
    fn start(&self, s: &str, n: Option<usize>) { eprintln!("== {s} {n:?}"); }
    fn step(&self, s: &StepInfo) { if s.step % 10 == 0 { eprintln!("{s:?}"); } }
    fn finish(&self) {}
    fn note(&self, m: &str) { eprintln!("note {m}"); }
    fn warn(&self, m: &str) { eprintln!("warn {m}"); }
    fn event(&self, e: &Event) { eprintln!("{}", e.line(None)); }
}
fn main() {
    let mut args = std::env::args().skip(1);
    let out = args.next().unwrap();
    let sets: Vec<_> = args.map(|a| a.parse::<autopeft::recipe::Override>().unwrap()).collect();
    let recipe = autopeft::recipe::Recipe::load("text-classification", &sets).unwrap();
    match autopeft::pipeline::select(&recipe, std::path::Path::new(&out), &P, &Default::default()) {
        Ok(o) => { println!("{}", serde_json::to_string_pretty(&o.report.sets).unwrap()); println!("{:?}", o.written);
            for g in o.report.groups.iter().take(40) { println!("{:3} {:50} {:6} v {:.2e} ppi {:.2e} acc {:.2} lr {:.2e} {}", g.rank, g.name, g.parameters, g.value, g.influence, g.acceptance, g.learning_rate, g.reason); } }
        Err(e) => eprintln!("error: {e}\nhint: {:?}", e.hint()),
    }
}
