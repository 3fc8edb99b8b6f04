# cmake -DWEB=<folder> -DOUT=<file.cc> -P embed_assets.cmake: every file of web/ as a byte array, and FindAsset.
# index.html is served at /, the others at /static/NAME.
file(GLOB files RELATIVE ${WEB} ${WEB}/*)
list(SORT files)
set(arrays "")
set(rows "")
set(index 0)
foreach(file IN LISTS files)
  if(IS_DIRECTORY ${WEB}/${file})
    continue()
  endif()
  get_filename_component(extension ${file} LAST_EXT)
  if(extension STREQUAL ".html")
    set(type "text/html; charset=utf-8")
  elseif(extension STREQUAL ".css")
    set(type "text/css; charset=utf-8")
  elseif(extension STREQUAL ".js")
    set(type "text/javascript; charset=utf-8")
  elseif(extension STREQUAL ".svg")
    set(type "image/svg+xml")
  elseif(extension STREQUAL ".woff2")
    set(type "font/woff2")
  else()
    continue()
  endif()
  if(file STREQUAL "index.html")
    set(path "/")
  else()
    set(path "/static/${file}")
  endif()
  file(READ ${WEB}/${file} hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "\\\\x\\1" bytes "${hex}")
  # A literal of many pieces: compilers bound the length of one.
  string(REGEX REPLACE "((\\\\x[0-9a-f][0-9a-f])(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?)" "\"\\1\"\n" bytes "${bytes}")
  string(APPEND arrays "constexpr char kFile${index}[] =\n${bytes};\n")
  string(APPEND rows "    {\"${path}\", \"${type}\", {kFile${index}, ${size}}},\n")
  math(EXPR index "${index} + 1")
endforeach()
file(WRITE ${OUT}.new "// Made from web/ by embed_assets.cmake.
#include \"server/static_assets.h\"

namespace minimo::server {
namespace {

${arrays}
const StaticAsset kAssets[] = {
${rows}};

}  // namespace

const StaticAsset* FindAsset(std::string_view path) {
  for (const StaticAsset& asset : kAssets) {
    if (asset.path == path) return &asset;
  }
  return nullptr;
}

}  // namespace minimo::server
")
file(RENAME ${OUT}.new ${OUT})
