package dag

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files returns the names of all entries in the DAG of an import, but of directories
// that are not empty.
func files(t testing.TB, m *memStore, res ImportResult) []string {
	t.Helper()
	dest := t.TempDir()
	if _, err := Extract(context.Background(), m, res.Root, dest, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range readTree(t, dest) {
		if !strings.HasSuffix(name, "/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// ignoreTests are ignore files, by folder, for a tree with the given files.
var ignoreTests = []struct {
	name   string
	ignore map[string]string
	files  string
	want   string // the files that are left
}{
	{"name", map[string]string{"": "a"}, "a b sub/a sub/b aa", "aa b sub/b"},
	{"name of a folder", map[string]string{"": "tmp"}, "tmp/x sub/tmp/y/z keep", "keep"},
	{"comments, blank lines, CRLF", map[string]string{"": "\ufeff#a\r\n\r\n  \nb\r\n\\#c"}, "#a a b #c", "#a a"},
	{"spaces", map[string]string{"": "a  \nb\\ \nc\\ \\  \n d"}, "a b c d|b |c  | d", "b c d"},
	{"star", map[string]string{"": "*.log\na*c"}, "x.log sub/y.log log ac abc abcd sub/axc", "abcd log"},
	{"question mark", map[string]string{"": "?.txt"}, "a.txt ab.txt .txt sub/b.txt", "ab.txt"},
	{"negation", map[string]string{"": "*.log\n!keep.log"}, "a.log keep.log sub/keep.log sub/b.log", "keep.log sub/keep.log"},
	{"the last one wins", map[string]string{"": "!a\na\n!b\nb\n!b"}, "a b", "b"},
	{"nothing below an ignored folder comes back", map[string]string{"": "out\n!out/keep"}, "out/keep out/x y", "y"},
	{"but below its ignored contents", map[string]string{"": "out/*\n!out/keep"}, "out/keep out/x y", "out/keep y"},
	{"folder only", map[string]string{"": "build/"}, "build/x sub/build/y other/build", "other/build"},
	{"anchored", map[string]string{"": "/a\n/d/"}, "a sub/a d/x sub/d/x", "sub/a sub/d/x"},
	{"anchored by a slash inside", map[string]string{"": "doc/*.txt\nsub/x"}, "doc/a.txt doc/deep/b.txt doc/c.md in/doc/d.txt in/sub/x sub/x", "doc/c.md doc/deep/b.txt in/doc/d.txt in/sub/x"},
	{"leading double star", map[string]string{"": "**/foo/bar\n**/z"}, "foo/bar a/foo/bar a/b/foo/bar a/bar z q/z", "a/bar"},
	{"trailing double star", map[string]string{"": "abc/**\n!abc/k"}, "abc/x abc/d/y abc/k sub/abc/z", "abc/k sub/abc/z"},
	{"middle double star", map[string]string{"": "a/**/b/c"}, "a/b/c a/x/b/c a/b/x/b/c a/x/y/b/c a/bb/c", "a/bb/c"},
	{"double star within a name", map[string]string{"": "a**z\np/q**r"}, "az abz a/z sub/abz p/qxr p/q/r", "a/z p/q/r"},
	{"more stars", map[string]string{"": "x/***/y\n***.t"}, "x/y x/a/b/y q.t sub/q.t", ""},
	{"all but", map[string]string{"": "/*\n!/keep/\n!/.polluxignore"}, "a keep/x keep/y z/q", "keep/x keep/y"},
	{"all but, by name", map[string]string{"": "*\n!keep/"}, "a keep/x", ""},
	{"all but one kind", map[string]string{"": "*\n!*/\n!*.html"}, "a.css b.html d/c.html d/e.js", "b.html d/c.html"},
	{"classes", map[string]string{"": "[abc].1\n[!abc].2\n[^abc].3\n[a-c].4\n[]x].5\n[a\\]].6\n[a-].7\n[[:digit:]].8\n[![:alpha:]].9\n[\\-x].0"},
		"a.1 d.1 a.2 d.2 a.3 d.3 b.4 d.4 ].5 x.5 y.5 ].6 a.6 b.6 -.7 a.7 b.7 7.8 x.8 7.9 x.9 -.0 x.0 \\.0", "\\.0 a.2 a.3 b.6 b.7 d.1 d.4 x.8 x.9 y.5"},
	{"a class does not match a slash", map[string]string{"": "/a[^x]b\nc/[[:punct:]]"}, "a/b a-b c/d c/,", "a/b c/d"},
	{"named classes", map[string]string{"": "a/[[:alnum:]][[:upper:]][[:lower:]]\n[[:xdigit:]][[:punct:]][[:graph:]][[:print:]]"}, "a/9Bc a/-Bc a/9bc f!~~ g!~~ f.~_", "a/-Bc a/9bc g!~~"},
	{"escapes", map[string]string{"": "\\!x\n\\*\n\\[a]\na\\?"}, "!x * b [a] a a? ab", "a ab b"},
	{"braces are plain", map[string]string{"": "{a,b}\nc}\nx{"}, "a b {a,b} c} x{", "a b"},
	{"other letters", map[string]string{"": "ünï*"}, "ünïx/a sub/ünï ü", "ü"},
	{"nested", map[string]string{"": "*.log\nx", "sub/": "!keep.log\n/y\nx/", "sub/deep/": "*.log"},
		"a.log keep.log x sub/keep.log sub/a.log sub/y sub/z/y sub/x sub/deep/keep.log sub/deep/y", "sub/deep/y sub/keep.log sub/z/y"},
	{"nested re-include and anchor", map[string]string{"": "/a/b/c\n*.o", "a/": "!/b/c", "a/b/": "!*.o"}, "a/b/c b/c a/b/x.o a/y.o", "a/b/c a/b/x.o b/c"},
	{"one in an ignored folder has no say", map[string]string{"": "out/", "out/": "!*"}, "out/x y", "y"},
	{"only in a folder below", map[string]string{"p/q/": "/a\nb/c"}, "a p/a p/q/a p/q/r/a p/q/b/c b/c", "a b/c p/a p/q/r/a"},
}

func TestImportIgnores(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Log("no git to compare with")
	}
	for _, tt := range ignoreTests {
		t.Run(tt.name, func(t *testing.T) {
			tr := tree{}
			for _, group := range strings.Split(tt.files, "|") {
				names := []string{group}
				if group == strings.Split(tt.files, "|")[0] {
					names = strings.Fields(group)
				}
				for _, name := range names {
					tr[name] = "1"
				}
			}
			for dir, content := range tt.ignore {
				tr[dir+IgnoreFile] = content
			}
			top := tr.write(t)
			for _, hidden := range []bool{false, true} {
				m, res := importTree(t, unixfsV1, top, ImportOptions{Hidden: hidden})
				want := strings.Fields(tt.want)
				if hidden && tt.name == "question mark" {
					want = []string{".txt", "ab.txt"}
				}
				if got := files(t, m, res); !slices.Equal(got, want) {
					t.Errorf("hidden %v: got %q, want %q", hidden, got, want)
				}
			}
			if git == "" {
				return
			}
			m, res := importTree(t, unixfsV1, top, ImportOptions{Hidden: true})
			if got, want := files(t, m, res), gitKeeps(t, git, top); !slices.Equal(got, want) {
				t.Errorf("got %q, git has %q", got, want)
			}
		})
	}
}

// gitKeeps returns the files below top that git would take in if the ignore files
// were its own.
func gitKeeps(t *testing.T, git, top string) []string {
	t.Helper()
	run := func(args ...string) string {
		cmd := exec.Command(git, args...)
		cmd.Dir = top
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	run("init", "-q")
	var names []string
	for _, name := range strings.Split(run("ls-files", "-z", "--others", "--exclude-per-directory="+IgnoreFile), "\x00") {
		if name != "" && filepath.Base(name) != IgnoreFile {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Totals do not count what is left out.
func TestCountIgnores(t *testing.T) {
	top := tree{IgnoreFile: "x\n*.o", "x/a": "123", "b.o": "123", "c": "1", "s/.polluxignore": "!*.o", "s/d.o": "12"}.write(t)
	for _, p := range []profile{unixfsV1, {maxDirSize: 1}} { // directories whole and in parts
		im := &importer{profile: p}
		d, err := im.openTop(top)
		if err != nil {
			t.Fatal(err)
		}
		im.count(t.Context(), d)
		if p := im.meter.read(); p.TotalFiles != 2 || p.TotalBytes != 3 {
			t.Errorf("counted %+v", p)
		}
		if len(im.open.open) > 0 {
			t.Errorf("%d directories are still open", len(im.open.open))
		}
	}
}

// What is not understood might be what keeps a secret in.
func TestImportIgnoreFileRefused(t *testing.T) {
	for name, tr := range map[string]tree{
		"line 2":             {"s/" + IgnoreFile: "ok\n[a", "s/f": "1"},
		`line 1: "a\\"`:      {"s/" + IgnoreFile: `a\`},
		"line 3":             {"s/" + IgnoreFile: "#\n\n[[:nothing:]]"},
		"matches nothing":    {"s/" + IgnoreFile: "/"},
		"malformed pattern":  {"s/" + IgnoreFile: "x[b-a"},
		"line 1":             {"s/" + IgnoreFile: "x[a/]"},
		"not a regular file": {"s/" + IgnoreFile: "-> elsewhere"},
		"larger than":        {"s/" + IgnoreFile: strings.Repeat("#", maxIgnoreFile+1)},
	} {
		_, err := Import(t.Context(), discard{}, tr.write(t), ImportOptions{})
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), `/s": `+IgnoreFile) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

// Whatever is in the file: an error or rules, and no panic.
func FuzzIgnoreFile(f *testing.F) {
	for _, tt := range ignoreTests {
		for _, content := range tt.ignore {
			f.Add([]byte(content), "sub/a")
		}
	}
	f.Fuzz(func(t *testing.T, content []byte, name string) {
		patterns, err := parseIgnoreFile(content)
		if err != nil {
			return
		}
		ig := ignoring{rules: &ignoreRules{patterns: patterns}}
		ig.ignores(name, false)
		ig.in("d").ignores(name, true)
	})
}
