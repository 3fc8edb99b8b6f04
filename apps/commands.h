// The subcommands of minimo: one file each, which adds its flags and its body.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "minimo/result.h"

namespace minimo {

// Exit codes (CLI): 0 success, 1 failure (the body's error is printed in one line), 2 bad usage.
class Commands {
 public:
  explicit Commands(CLI::App& root) : root_(root) {}

  // Adds a subcommand; set its flags on the result and its body by Body.
  CLI::App& Add(const std::string& name, const std::string& description);
  void Body(CLI::App& command, std::function<Status()> body) { bodies_.emplace_back(&command, std::move(body)); }

  // Runs the body of the subcommand that was parsed.
  Status Run() const;

 private:
  CLI::App& root_;
  std::vector<std::pair<CLI::App*, std::function<Status()>>> bodies_;
};

// Whether these are arguments of minimo, which are not run: in words, what is wrong with them.
Status CheckArguments(std::vector<std::string> arguments);

// Flags that most commands share.
struct CommonFlags {
  std::string model = "nano-minimax-m2";
  std::string backend = "auto";
  std::string dtype = "auto";
  std::string activations = "exact";
  std::string quantization;  // empty: as the checkpoint is
  int threads = 0;

  // --model with the shipped default, or MODEL as the first argument where the command wants it named.
  void AddModelFlag(CLI::App& command);
  void AddModelArgument(CLI::App& command);
  void AddRuntimeFlags(CLI::App& command);
  // An error if --quantization names another format than the checkpoint in `folder` has.
  Status CheckQuantization(const std::string& folder) const;
};

void AddBench(Commands& commands);
void AddChat(Commands& commands);
void AddConvert(Commands& commands);
void AddLaunch(Commands& commands);
void AddEval(Commands& commands);
void AddLogits(Commands& commands);
void AddInspect(Commands& commands);
void AddRender(Commands& commands);
void AddRun(Commands& commands);
void AddSynth(Commands& commands);
void AddServe(Commands& commands);
void AddTokenize(Commands& commands);  // and detokenize

}  // namespace minimo
