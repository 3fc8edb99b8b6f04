// minimo convert: another number format, or one file set a rank; streamed, resumable, checked.
#include <algorithm>
#include <csignal>
#include <iostream>

#include "apps/commands.h"
#include "apps/progress_bar.h"
#include "checkpoint/mapped_file.h"
#include "convert/convert.h"
#include "convert/quality.h"
#include "minimo/tokenizer.h"

namespace minimo {
namespace {

volatile std::sig_atomic_t interrupted = 0;

struct Flags {
  ConvertOptions options;
  std::string to;
  bool verify = false;
  std::string eval_text;
  int eval_tokens = 4096;
  TextOptions text;
};

// What the conversion costs on a text, printed and kept in the manifest.
Status EvalText(const Flags& flags, const std::function<bool(int64_t, int64_t)>& progress) {
  MINIMO_ASSIGN(const std::string text, ReadTextFile(flags.eval_text));
  MINIMO_ASSIGN(const auto tokenizer, Tokenizer::FromFolder(flags.options.in));
  MINIMO_ASSIGN(std::vector<int32_t> ids, tokenizer->Encode(text));
  ids.resize(std::min(ids.size(), static_cast<size_t>(flags.eval_tokens)));
  MINIMO_ASSIGN(const TextQuality q, CompareOnText(flags.options.in, flags.options.out, ids, flags.text, progress));
  MINIMO_TRY(RecordQuality(flags.options.out, flags.eval_text, q));
  fmt::print("{}: {} tokens, perplexity {:.4f} -> {:.4f}, KL divergence {:.3e} nats a token, same choice {:.2f} %\n",
             flags.eval_text, q.tokens, q.source_perplexity, q.perplexity, q.kl_divergence, 100 * q.same_choice);
  return {};
}

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
  if (report.resumed_bytes > 0) {
    fmt::print(", {:.2f} GB found finished", static_cast<double>(report.resumed_bytes) * 1e-9);
  }
  fmt::print("\n");
  for (size_t i = 0; i < report.layer_error.size(); ++i) {
    if (report.layer_error[i] == 0) continue;
    const bool outside = i + 1 == report.layer_error.size();
    fmt::print("{:<10} relative error {:.3e}\n", outside ? "elsewhere" : fmt::format("layer {}", i),
               report.layer_error[i]);
  }
  MINIMO_TRY(CheckConversion(flags.options.out));
  if (flags.eval_text.empty()) return {};
  flags.text.threads = flags.options.threads;
  ProgressBar compare("compare");
  return EvalText(flags, [&](int64_t done, int64_t total) {
    compare.Show(done, total);
    return interrupted == 0;
  });
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
  command
      .add_flag(
          "--released-keys", flags->options.request.released_keys,
          "With --to bf16: config.json keeps the keys as released, for vLLM and mlx-lm; without, transformers' own")
      ->needs(to);
  auto* verify = command.add_flag("--verify", flags->verify, "Check a finished conversion against its checksums");
  command.add_option("--eval-text", flags->eval_text,
                     "Afterwards compare the output with IN on this text: perplexities and KL divergence")
      ->check(CLI::ExistingFile)->excludes(ranks);
  command.add_option("--eval-tokens", flags->eval_tokens, "Tokens of the text at most")
      ->check(CLI::Range(2, 1 << 24))->capture_default_str();
  command.add_option("--eval-context", flags->text.context, "Tokens a window of the text")
      ->check(CLI::Range(2, 1 << 20))->capture_default_str();
  command.add_option("--threads", flags->options.threads, "CPU threads; 0: all cores")->check(CLI::Range(0, 4096));
  command.callback([out, to, ranks, verify] {
    if (!*verify && (!*out || (!*to && !*ranks))) throw CLI::RequiredError("OUT and --to or --tensor-parallel-size");
  });
  commands.Body(command, [flags] { return Body(*flags); });
}

}  // namespace minimo
