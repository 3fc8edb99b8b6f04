// The web page's files, embedded in the binary: web/ is turned into an array at build time.
#pragma once

#include <string_view>

#include "server/http_types.h"

namespace minimo::server {

struct StaticAsset {
  std::string_view path;  // "/", "/static/app.js"
  std::string_view content_type;
  std::string_view body;
};

// The file at this path, or null.
const StaticAsset* FindAsset(std::string_view path);

// GET / and /static/...: open to all (the page asks for the key and sends it with its own requests).
void HandleStatic(HttpRequest&& request, ReplyPtr reply);

}  // namespace minimo::server
