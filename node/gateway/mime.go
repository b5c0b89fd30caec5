package gateway

import "mime"

// webTypes are the media types of files that sites are made of. Go takes them
// from the machine's own tables (on Windows the registry, where .js is often
// text/plain), but a mirror must not change what a file is.
var webTypes = map[string]string{
	".avif":        "image/avif",
	".css":         "text/css",
	".csv":         "text/csv",
	".eot":         "application/vnd.ms-fontobject",
	".gif":         "image/gif",
	".htm":         "text/html",
	".html":        "text/html",
	".ico":         "image/vnd.microsoft.icon",
	".jpeg":        "image/jpeg",
	".jpg":         "image/jpeg",
	".js":          "text/javascript",
	".json":        "application/json",
	".map":         "application/json",
	".md":          "text/markdown",
	".mjs":         "text/javascript",
	".mp3":         "audio/mpeg",
	".mp4":         "video/mp4",
	".ogg":         "audio/ogg",
	".otf":         "font/otf",
	".pdf":         "application/pdf",
	".png":         "image/png",
	".svg":         "image/svg+xml",
	".ttf":         "font/ttf",
	".txt":         "text/plain",
	".wasm":        "application/wasm",
	".wav":         "audio/wav",
	".webm":        "video/webm",
	".webmanifest": "application/manifest+json",
	".webp":        "image/webp",
	".woff":        "font/woff",
	".woff2":       "font/woff2",
	".xhtml":       "application/xhtml+xml",
	".xml":         "application/xml",
	".zip":         "application/zip",
}

// registerTypes makes webTypes what package mime, and so boxo, says.
func registerTypes() {
	for ext, t := range webTypes {
		if err := mime.AddExtensionType(ext, t); err != nil {
			panic(err) // the table is malformed
		}
	}
}
