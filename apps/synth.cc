// minimo synth: a checkpoint of real shapes with random weights, for benches and tests.
#include <unistd.h>

#include "apps/commands.h"
#include "apps/progress_bar.h"
#include "models/synth.h"

namespace minimo {
namespace {

struct Flags {
  std::string out;
  SynthOptions options;
  std::string format = "fp8";
  std::string routing = "uniform";
};

Status Body(const Flags& flags) {
  SynthOptions options = flags.options;
  options.format = flags.format == "fp8"    ? SynthFormat::kFp8
                   : flags.format == "bf16" ? SynthFormat::kBf16
                                            : SynthFormat::kW4;
  options.skewed_routing = flags.routing == "skewed";
  ProgressBar bar("synth");
  return WriteSynthetic(flags.out, options, [&](int64_t done, int64_t total) {
    bar.Show(done, total);
    return true;
  });
}

}  // namespace

void AddSynth(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = commands.Add("synth", "Write a checkpoint of real shapes with random weights");
  command.add_option("OUT", flags->out, "The folder to write")->required();
  command.add_option("--like", flags->options.like, "minimax-m2 or mimo-v2-flash")
      ->check(CLI::IsMember({"minimax-m2", "mimo-v2-flash"}))->required();
  command.add_option("--layers", flags->options.layers, "Decoder layers; 0: all")->check(CLI::Range(0, 62));
  command.add_option("--vocab", flags->options.vocab, "Vocabulary; 0: as released")->check(CLI::Range(0, 1 << 20));
  command.add_option("--format", flags->format, "fp8, bf16 or w4 (4-bit experts)")
      ->check(CLI::IsMember({"fp8", "bf16", "w4"}))->capture_default_str();
  command.add_option("--routing", flags->routing, "uniform or skewed")
      ->check(CLI::IsMember({"uniform", "skewed"}))->capture_default_str();
  command.add_flag("--quantize-all", flags->options.quantize_all,
                   "Head and attention in FORMAT too, where the released files or w4 keep more bits");
  command.add_option("--seed", flags->options.seed, "Of the weights")->capture_default_str();
  commands.Body(command, [flags] { return Body(*flags); });
}

}  // namespace minimo
