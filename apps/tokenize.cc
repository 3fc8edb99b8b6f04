// minimo tokenize / detokenize: text to ids (JSON on standard output) and back.
#include <nlohmann/json.hpp>

#include <iostream>
#include <iterator>

#include "apps/commands.h"
#include "base/error.h"
#include "checkpoint/mapped_file.h"
#include "minimo/tokenizer.h"
#include "models/loader.h"

namespace minimo {
namespace {

struct Flags {
  CommonFlags common;
  std::string text;
  std::string file;
  bool add_special = false;
  std::vector<int32_t> ids;
  std::string ids_file;
  bool skip_special = false;
};

Result<std::unique_ptr<Tokenizer>> Load(const Flags& flags) {
  MINIMO_ASSIGN(const std::string folder, ResolveModelFolder(flags.common.model));
  return Tokenizer::FromFolder(folder);
}

std::string ReadStandardInput() { return {std::istreambuf_iterator<char>(std::cin), {}}; }

Status TokenizeBody(const Flags& flags, bool has_text) {
  MINIMO_ASSIGN(const auto tokenizer, Load(flags));
  std::string text = flags.text;
  if (!has_text && flags.file == "-") {
    text = ReadStandardInput();
  } else if (!has_text) {
    MINIMO_ASSIGN(text, ReadTextFile(flags.file));
  }
  MINIMO_ASSIGN(const auto ids, tokenizer->Encode(text, {flags.add_special, true}));
  std::cout << nlohmann::json(ids).dump() << "\n";
  return {};
}

Status DetokenizeBody(const Flags& flags, bool has_ids) {
  MINIMO_ASSIGN(const auto tokenizer, Load(flags));
  std::vector<int32_t> ids = flags.ids;
  if (!has_ids) {
    std::string text;
    if (flags.ids_file == "-") {
      text = ReadStandardInput();
    } else {
      MINIMO_ASSIGN(text, ReadTextFile(flags.ids_file));
    }
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_array()) return Errorf("{}: expected a JSON list of token ids", flags.ids_file);
    for (const auto& id : json) {
      if (!id.is_number_integer()) return Errorf("{}: {} is not a token id", flags.ids_file, id.dump());
      ids.push_back(id.get<int32_t>());
    }
  }
  for (const int32_t id : ids) {
    if (id < 0 || id >= tokenizer->vocab_size())
      return Errorf("token id {} is not in [0, {})", id, tokenizer->vocab_size());
  }
  std::cout << tokenizer->Decode(ids, flags.skip_special) << "\n";
  return {};
}

}  // namespace

void AddTokenize(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& tokenize = commands.Add("tokenize", "Print the token ids of a text as JSON");
  flags->common.AddModelArgument(tokenize);
  auto* text = tokenize.add_option("--text", flags->text, "The text");
  auto* file = tokenize.add_option("--file", flags->file, "A file with the text; - for standard input");
  text->excludes(file);
  tokenize.add_flag("--add-special-tokens", flags->add_special,
                    "What the tokenizer's post-processor adds (a BOS, say)");
  tokenize.callback([text, file] {
    if (!*text && !*file) throw CLI::RequiredError("--text or --file");
  });
  commands.Body(tokenize, [flags, text] { return TokenizeBody(*flags, bool(*text)); });

  auto back = std::make_shared<Flags>();
  CLI::App& detokenize = commands.Add("detokenize", "Print the text of token ids");
  back->common.AddModelArgument(detokenize);
  auto* ids = detokenize.add_option("--ids", back->ids, "Token ids: 1,2,3")->delimiter(',');
  auto* ids_file = detokenize.add_option("--ids-file", back->ids_file, "A JSON list of ids; - for standard input");
  ids->excludes(ids_file);
  detokenize.add_flag("--skip-special-tokens", back->skip_special, "Leave special tokens out");
  detokenize.callback([ids, ids_file] {
    if (!*ids && !*ids_file) throw CLI::RequiredError("--ids or --ids-file");
  });
  commands.Body(detokenize, [back, ids] { return DetokenizeBody(*back, bool(*ids)); });
}

}  // namespace minimo
