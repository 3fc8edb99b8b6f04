// minimo-convert.json: what a conversion was asked, what it read, and which files are whole.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "convert/quality.h"
#include "minimo/result.h"

namespace minimo {

struct FileRecord {
  std::string file;                 // relative to the folder
  int64_t bytes = 0;
  std::string xxh3;                 // of the whole file, hexadecimal
  std::vector<double> layer_error;  // squared error and squared norm a layer, flattened: [2 * (layers + 1)]
};

struct Ledger {
  std::string request;  // the target and its parameters
  std::string source;   // a fingerprint of the source folder
  int files = 0;        // in all
  std::vector<FileRecord> done;
  std::vector<double> relative_error;    // of a finished conversion: a layer, the last entry outside the layers
  std::string text;                      // the file that `quality` was measured on
  std::optional<TextQuality> quality;

  static std::string PathIn(const std::string& folder);
  static Result<std::optional<Ledger>> Read(const std::string& folder);  // nothing: no ledger there
  Status Write(const std::string& folder) const;                        // atomically
};

// Names, sizes and modification times of a checkpoint's files.
Result<std::string> SourceFingerprint(const std::string& folder);

// XXH3 (64 bit) of a file, hexadecimal. `progress` may be empty; it is told bytes read so far of this file.
Result<std::string> FileChecksum(const std::string& path, const std::function<bool(int64_t)>& progress);

// Writes PATH.tmp, syncs, renames.
Status WriteFileAtomically(const std::string& path, const std::string& text);

}  // namespace minimo
