// minimo convert: another number format, or one file set a rank; streamed, resumable, checked.
#include <csignal>
#include <iostream>

#include "apps/commands.h"
#include "apps/progress_bar.h"
#include "convert/convert.h"

namespace minimo {
namespace {

volatile std::sig_atomic_t interrupted = 0;

struct Flags {
  ConvertOptions options;
  std::string to;
  bool verify = false;
};

Status Body(Flags& flags) {
  std::signal(SIGINT, [](int) { interrupted = 1; });
  std::signal(SIGTERM, [](int) { interrupted = 1; });
  ProgressBar bar(flags.verify ? "verify" : "convert");
  const auto progress = [&](int64_t done, int64_t total) {
    bar.Show(done, total);
    return interrupted == 0;
  };
  if (flags.verify) return VerifyConversion(flags.options.in, progress);
  MINIMO_ASSIGN(flags.options.in, ResolveModelFolder(flags.options.in));
  flags.options.request.target = flags.to == "bf16"  ? TargetFormat::kBf16
                                 : flags.to == "fp8" ? TargetFormat::kFp8
                                 : flags.to == "w4"  ? TargetFormat::kW4
                                                     : TargetFormat::kAsIs;
  MINIMO_ASSIGN(const ConvertReport report, Convert(flags.options, progress));
  fmt::print("{:.2f} GB -> {:.2f} GB in {:.1f} s", static_cast<double>(report.input_bytes) * 1e-9,
             static_cast<double>(report.output_bytes) * 1e-9, report.seconds);
  if (report.resumed_bytes > 0) fmt::print(", {:.2f} GB found finished", static_cast<double>(report.resumed_bytes) * 1e-9);
  fmt::print("\n");
  for (size_t i = 0; i < report.layer_error.size(); ++i) {
    if (report.layer_error[i] == 0) continue;
    const bool outside = i + 1 == report.layer_error.size();
    fmt::print("{:<10} relative error {:.3e}\n", outside ? "elsewhere" : fmt::format("layer {}", i), report.layer_error[i]);
  }
  return VerifyConversion(flags.options.out, {});
}

}  // namespace

void AddConvert(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = commands.Add("convert", "Convert a checkpoint to another number format, or share it among ranks");
  command.add_option("IN", flags->options.in, "The checkpoint folder (with --verify: the converted one)")->required();
  auto* out = command.add_option("OUT", flags->options.out, "The folder to write");
  auto* to = command.add_option("--to", flags->to, "bf16, fp8 (128x128 blocks) or w4 (4-bit experts)")
      ->check(CLI::IsMember({"bf16", "fp8", "w4"}));
  auto* ranks = command.add_option("--tensor-parallel-size", flags->options.request.tensor_parallel_size,
                                   "Write one file set for each of so many ranks, which then read nothing else")
      ->check(CLI::Range(1, 512));
  command.add_option("--expert-parallel-size", flags->options.request.expert_parallel_size,
                     "Shares of the experts among those ranks; 1: every rank rows of all; 0: as run chooses")
      ->check(CLI::Range(0, 512))->needs(ranks)->capture_default_str();
  auto* verify = command.add_flag("--verify", flags->verify, "Check a finished conversion against its checksums");
  command.add_option("--threads", flags->options.threads, "CPU threads; 0: all cores")->check(CLI::Range(0, 4096));
  command.callback([out, to, ranks, verify] {
    if (!*verify && (!*out || (!*to && !*ranks))) throw CLI::RequiredError("OUT and --to or --tensor-parallel-size");
  });
  commands.Body(command, [flags] { return Body(*flags); });
}

}  // namespace minimo
