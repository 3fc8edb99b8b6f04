// The one binary: parses the command line, runs a subcommand, turns its error into one line and an exit code.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>

#include "apps/commands.h"
#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"

namespace minimo {

CLI::App& Commands::Add(const std::string& name, const std::string& description) {
  return *root_.add_subcommand(name, description);
}

Status Commands::Run() const {
  for (const auto& [command, body] : bodies_) {
    if (command->parsed()) return body();
  }
  return {};
}

void CommonFlags::AddModelFlag(CLI::App& command) {
  command.add_option("--model", model, "Checkpoint folder, or nano-minimax-m2 / nano-mimo-v2-flash")
      ->capture_default_str();
}

void CommonFlags::AddModelArgument(CLI::App& command) {
  command.add_option("MODEL,--model", model, "Checkpoint folder, or nano-minimax-m2 / nano-mimo-v2-flash")
      ->capture_default_str();
}

void CommonFlags::AddRuntimeFlags(CLI::App& command) {
  command.add_option("--backend", backend, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))->capture_default_str();
  command.add_option("--dtype", dtype, "auto, f32 (exact, KV cache too) or bf16 (KV cache in bf16)")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))->capture_default_str();
  command
      .add_option("--activations", activations,
                  "On the CPU: exact, or int8 products of requantised weights (docs/cpu.md)")
      ->check(CLI::IsMember({"exact", "int8"}))
      ->capture_default_str();
  command
      .add_option("--quantization", quantization,
                  "none, fp8 or w4: refuse a checkpoint in another format; default: any")
      ->check(CLI::IsMember({"none", "fp8", "w4"}));
  command.add_option("--threads", threads, "CPU threads; 0: all cores (serve: of eight or more less its --io-threads)")
      ->check(CLI::Range(0, 4096))->capture_default_str();
}

Status CommonFlags::CheckQuantization(const std::string& folder) const {
  if (quantization.empty()) return {};
  MINIMO_ASSIGN(const std::string text, ReadConfigText(folder));
  const auto config = nlohmann::json::parse(text, nullptr, false);
  const auto quant = config.is_object() ? config.value("quantization_config", nlohmann::json()) : nlohmann::json();
  const std::string method = quant.is_object() ? quant.value("quant_method", "") : "";
  const std::string have = method.empty() ? "none" : method == "compressed-tensors" ? "w4" : method;
  if (have == quantization) return {};
  return Errorf("{}: its quantization is {}, asked for {}; minimo convert makes another format of it", folder, have,
                quantization);
}

namespace {

// All of minimo's commands and their flags.
struct CommandLine {
  CLI::App app{"Runs and serves MiniMax-M2 and MiMo-V2-Flash from their Hugging Face checkpoints.", "minimo"};
  Commands commands{app};
  std::string log_level = "warn";

  CommandLine() {
    app.set_version_flag("--version", std::string("minimo ") + MINIMO_VERSION);
    app.require_subcommand(1);
    app.fallthrough();
    app.add_option("--log-level", log_level, "debug, info, warn, error or off")
        ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))->capture_default_str();
    AddRun(commands);
    AddChat(commands);
    AddBench(commands);
    AddConvert(commands);
    AddLaunch(commands);
    AddLogits(commands);
    AddInspect(commands);
    AddSynth(commands);
    AddServe(commands);
    AddTokenize(commands);
    AddRender(commands);
    AddEval(commands);
  }

  std::string Explain(const CLI::ParseError& fault, const std::string& first_argument) const {
    const auto given = app.get_subcommands();
    if (given.empty() && !first_argument.empty() && first_argument[0] != '-') {
      return fmt::format("{}: no such command (see minimo --help)", first_argument);
    }
    const bool lacks_dashes = !given.empty() && given.front()->get_name() == "launch" &&
                              fault.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError);
    constexpr char kDashes[] = "what the ranks run comes after --: minimo launch -n 2 -- serve ...";
    return fmt::format("{} ({})", fault.what(), lacks_dashes ? kDashes : "see minimo --help");
  }
};

}  // namespace

Status CheckArguments(std::vector<std::string> arguments) {
  CommandLine line;
  const std::string first = arguments.empty() ? "" : arguments.front();
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
  try {
    line.app.parse(arguments);
  } catch (const CLI::ParseError& fault) {
    if (fault.get_exit_code() != 0) return Error{line.Explain(fault, first)};  // else --help, --version
  }
  return {};
}

namespace {

int Main(int argc, char** argv) {
  CommandLine line;
  try {
    line.app.parse(argc, argv);
  } catch (const CLI::ParseError& fault) {
    if (fault.get_exit_code() == 0) return line.app.exit(fault);  // --help, --version
    fmt::print(stderr, "minimo: {}\n", line.Explain(fault, argc > 1 ? argv[1] : ""));
    return 2;
  }
  const std::pair<const char*, LogLevel> levels[] = {{"debug", LogLevel::kDebug}, {"info", LogLevel::kInfo},
                                                     {"warn", LogLevel::kWarn},   {"error", LogLevel::kError},
                                                     {"off", LogLevel::kOff}};
  for (const auto& [name, level] : levels) {
    if (line.log_level == name) SetLogLevel(level);
  }
  const Status status = line.commands.Run();
  if (status.ok()) return 0;
  if (!status.error().message.empty()) fmt::print(stderr, "minimo: {}\n", status.error().message);
  return 1;
}

}  // namespace
}  // namespace minimo

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that goes away is a write error, not a death
  try {
    return minimo::Main(argc, argv);
  } catch (const std::exception& fault) {  // out of memory, above all
    fmt::print(stderr, "minimo: {}\n", fault.what());
    return 1;
  }
}
