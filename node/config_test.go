package node

import (
	"encoding"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const peerAddr = "/ip4/192.0.2.1/tcp/4801/p2p/12D3KooWGRUVh7FWZ4nrLxdZDbN5q8hqfDWcYFhGP3bqgHyCCp2f"

func noEnv(string) (string, bool) { return "", false }

func TestDefaultConfig(t *testing.T) {
	c := DefaultConfig()
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	if err := (Config{}).Check(); err == nil {
		t.Error("the zero Config passes")
	}
	if n, m := len(c.settings()), reflect.TypeFor[Config]().NumField(); n != m {
		t.Errorf("%d settings for %d fields", n, m)
	}
	for _, s := range c.settings() { // a field's key is its name
		got := reflect.ValueOf(&c).Elem().FieldByNameFunc(func(name string) bool {
			return strings.EqualFold(name, strings.ReplaceAll(s.key, "_", ""))
		})
		if !got.IsValid() || got.Addr().Interface() != s.field {
			t.Errorf("%s sets another field", s.key)
		}
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig("config.toml", []byte(`
# Everything
listen = ["/ip4/127.0.0.1/tcp/0"]
disk = "20GB"
min_free = "1MiB"
bootstrap = [
  "`+peerAddr+`",
]
gateway = "[::1]:80"
dht = "server"
network = "my-net-2"
announce = "roots"
mdns = false
port_mapping = false
connections_low = 1
connections_high = 2
log_level = "debug"
`))
	want := Config{
		Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Bootstrap: []string{peerAddr}, Gateway: "[::1]:80",
		DHT: DHTServer, Network: "my-net-2", Announce: AnnounceRoots,
		ConnectionsLow: 1, ConnectionsHigh: 2, Disk: 20e9, MinFree: 1 << 20, LogLevel: LogDebug,
	}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Fatalf("%+v, %v; want %+v", c, err, want)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "# nothing\n", "\r\n"} {
		if c, err := ParseConfig("config.toml", []byte(text)); err != nil || !reflect.DeepEqual(c, DefaultConfig()) {
			t.Errorf("%q: %+v, %v; want the defaults", text, c, err)
		}
	}
	c, err = ParseConfig("config.toml", []byte(`listen = []`))
	if err != nil || len(c.Listen) != 0 || c.Check() != nil {
		t.Errorf("listen on the default: %q, %v, %v", c.Listen, err, c.Check())
	}
}

func TestParseConfigErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"\n\n\n\n\n\ngatway = \"none\"", `config.toml:7: unknown key "gatway" (did you mean "gateway"?)`},
		{"Gateway = \"none\"", `config.toml:1: unknown key "Gateway" (did you mean "gateway"?)`},
		{"mdns = true\ncolour = 1", `config.toml:2: unknown key "colour"`},
		{"[peers]\nmdns = true", `config.toml:1: unknown key "peers"`},
		{"peers.mdns = true", `config.toml:1: unknown key "peers"`},
		{"[gateway]\nport = 1", `config.toml:1: gateway: not a string in quotes`},
		{"[[listen]]\nport = 1", `config.toml:1: listen: map[port:1] in the list is not a string`},
		{"# x\ngateway = 8080", `config.toml:2: gateway: not a string in quotes`},
		{"gateway = \"8080\"", `config.toml:1: gateway: "8080" is neither host:port, such as 127.0.0.1:8080, nor "none"`},
		{"gateway = \":8080\"", `config.toml:1: gateway: the host of ":8080" is neither an IP address nor localhost`},
		{"gateway = \"example.org:80\"", `config.toml:1: gateway: the host of "example.org:80" is neither an IP address nor localhost`},
		{"gateway = \"127.0.0.1:65536\"", `config.toml:1: gateway: the port of "127.0.0.1:65536" is not a number from 0 to 65535`},
		{"gateway = \"127.0.0.1:http\"", `config.toml:1: gateway: the port of "127.0.0.1:http" is not a number from 0 to 65535`},
		{"dht = \"on\"", `config.toml:1: dht: "on" is not one of auto, server, client`},
		{"dht = 1", `config.toml:1: dht: not a string in quotes`},
		{"announce = \"ALL\"", `config.toml:1: announce: "ALL" is not one of all, entities, roots`},
		{"log_level = \"\"", `config.toml:1: log_level: "" is not one of debug, info, warn, error`},
		{"network = \"Mine\"", `config.toml:1: network: "Mine" is not 1 to 64 of the characters a-z, 0-9 and "-"`},
		{"network = \"\"", `config.toml:1: network: "" is not 1 to 64 of the characters a-z, 0-9 and "-"`},
		{"network = \"a\\n\"", `config.toml:1: network: "a\n" is not 1 to 64 of the characters a-z, 0-9 and "-"`},
		{"mdns = \"yes\"", `config.toml:1: mdns: neither true nor false`},
		{"mdns = yes", `config.toml:1: `},
		{"listen = \"/ip4/0.0.0.0/tcp/1\"", `config.toml:1: listen: not a list of strings, such as ["a", "b"]`},
		{"connections_low = 50\nmdns = true\nconnections_high = 10", `config.toml:3: connections_low (50) is above connections_high (10)`},
		{"disk = \"lots\"", `config.toml:1: disk: "lots" is not a size, such as 20GB or 512KiB`},
		{"min_free = 5", `config.toml:1: min_free: not a string in quotes`},
		{"listen = [4801]", `config.toml:1: listen: 4801 in the list is not a string`},
		{"listen = [\"\"]", `config.toml:1: listen: "" is not a multiaddr, such as /ip4/192.0.2.1/tcp/4801`},
		{"listen = [\"/\"]", `config.toml:1: listen: "/" is not a multiaddr, such as /ip4/192.0.2.1/tcp/4801`},
		{"listen = [\"0.0.0.0:4801\"]", `config.toml:1: listen: "0.0.0.0:4801" is not a multiaddr, such as /ip4/192.0.2.1/tcp/4801`},
		{"listen = [\"/dns4/example.org/tcp/1\"]", `config.toml:1: listen: "/dns4/example.org/tcp/1" does not begin with /ip4/ or /ip6/, so it is nothing to listen on`},
		{"listen = [\"" + peerAddr + "\"]", `config.toml:1: listen: "` + peerAddr + `" is the address of a peer (/p2p/), not one to listen on`},
		{"bootstrap = [\"/ip4/192.0.2.1/tcp/1\"]", `config.toml:1: bootstrap: "/ip4/192.0.2.1/tcp/1" does not end in /p2p/ and the peer's ID`},
		{"bootstrap = [\"none\", \"" + peerAddr + "\"]", `config.toml:1: bootstrap: "none" stands beside addresses; it stands alone`},
		{"connections_low = 0", `config.toml:1: connections_low: 0 is not from 1 to 100000`},
		{"connections_high = 100001", `config.toml:1: connections_high: 100001 is not from 1 to 100000`},
		{"connections_high = 9223372036854775807", `config.toml:1: connections_high: 9223372036854775807 is not from 1 to 100000`},
		{"connections_high = 1.5", `config.toml:1: connections_high: not a whole number`},
		{"mdns = true\nmdns = true", `config.toml:2: `},
		{"mdns = true\n= 3", `config.toml:2: `},
		{"gateway = \"none", `config.toml:1: `},
		{"mdns = true\nnetwork = \"\xff\"", `config.toml:2: `},
		{strings.Repeat("#", maxConfigSize+1), `config.toml: larger than 1048576 bytes`},
	} {
		_, err := ParseConfig("config.toml", []byte(tt.text))
		exact := !strings.HasSuffix(tt.want, ": ") // what toml says after it is toml's
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || exact && err.Error() != tt.want || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60q:\n got %v\nwant %s", tt.text, err, tt.want)
		}
	}
}

func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	if c, err := LoadConfig(path, noEnv); err != nil || !reflect.DeepEqual(c, DefaultConfig()) {
		t.Errorf("no file: %+v, %v; want the defaults", c, err)
	}
	if _, err := LoadConfig(dir, noEnv); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory: %v", err)
	}
	if err := os.WriteFile(path, []byte("gateway = \"127.0.0.1:1\"\ndht = \"client\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(path, func(name string) (string, bool) {
		v, ok := map[string]string{
			"POLLUX_GATEWAY":         "127.0.0.1:2",
			"POLLUX_DHT":             "", // counts as not set
			"POLLUX_LISTEN":          "/ip4/127.0.0.1/tcp/1, /ip6/::1/tcp/1",
			"POLLUX_BOOTSTRAP":       "none",
			"POLLUX_MDNS":            "0",
			"POLLUX_CONNECTIONS_LOW": "7",
			"POLLUX_LOG_LEVEL":       "error",
		}[name]
		return v, ok
	})
	want := DefaultConfig()
	want.Gateway, want.DHT, want.MDNS, want.ConnectionsLow, want.LogLevel = "127.0.0.1:2", DHTClient, false, 7, LogError
	want.Listen, want.Bootstrap = []string{"/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"}, []string{"none"}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("%+v, %v; want %+v", c, err, want)
	}

	for _, tt := range []struct{ name, value, want string }{
		{"POLLUX_DHT", "on", `POLLUX_DHT: "on" is not one of auto, server, client`},
		{"POLLUX_MDNS", "maybe", `POLLUX_MDNS: "maybe" is neither true nor false`},
		{"POLLUX_CONNECTIONS_HIGH", "many", `POLLUX_CONNECTIONS_HIGH: "many" is not a whole number`},
		{"POLLUX_CONNECTIONS_HIGH", "-1", `POLLUX_CONNECTIONS_HIGH: -1 is not from 1 to 100000`},
		{"POLLUX_NETWORK", "a b", `POLLUX_NETWORK: "a b" is not 1 to 64 of the characters a-z, 0-9 and "-"`},
		{"POLLUX_LISTEN", "x,y", `POLLUX_LISTEN: "x" is not a multiaddr, such as /ip4/192.0.2.1/tcp/4801`},
		{"POLLUX_BOOTSTRAP", "none," + peerAddr, `POLLUX_BOOTSTRAP: "none" stands beside addresses; it stands alone`},
	} {
		_, err := LoadConfig(path, func(name string) (string, bool) { return tt.value, name == tt.name })
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s=%s: %v, want %s", tt.name, tt.value, err, tt.want)
		}
	}

	if err := os.WriteFile(path, []byte("dht = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadConfig(path, noEnv); err == nil || !strings.HasPrefix(err.Error(), path+":1: dht: ") {
		t.Errorf("bad file: %v", err)
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		set  func(*Config)
		want string
	}{
		{func(c *Config) { c.ConnectionsLow = 97 }, "connections_low (97) is above connections_high (96)"},
		{func(c *Config) { c.ConnectionsLow, c.ConnectionsHigh = 5, 5 }, ""},
		{func(c *Config) { c.Gateway = None }, ""},
		{func(c *Config) { c.Gateway = "localhost:0" }, ""},
		{func(c *Config) { c.Gateway = "here" }, "gateway: "},
		{func(c *Config) { c.Bootstrap = []string{None} }, ""},
		{func(c *Config) { c.Bootstrap = []string{peerAddr, None} }, "bootstrap: "},
		{func(c *Config) { c.Listen = []string{"here"} }, "listen: "},
		{func(c *Config) { c.DHT = "x" }, "dht: "},
		{func(c *Config) { c.Announce = "" }, "announce: "},
		{func(c *Config) { c.LogLevel = "x" }, "log_level: "},
		{func(c *Config) { c.Network = "" }, "network: "},
	} {
		c := DefaultConfig()
		tt.set(&c)
		err := c.Check()
		if (tt.want == "") != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
}

func TestEnums(t *testing.T) {
	d, a, l := DHTAuto, AnnounceAll, LogWarn
	for _, tt := range []struct {
		value interface {
			encoding.TextUnmarshaler
			fmt.Stringer
		}
		texts []string
	}{
		{&d, []string{"auto", "server", "client"}},
		{&a, []string{"all", "entities", "roots"}},
		{&l, []string{"debug", "info", "warn", "error"}},
	} {
		for _, text := range tt.texts {
			if err := tt.value.UnmarshalText([]byte(text)); err != nil || tt.value.String() != text {
				t.Errorf("%s: became %s, %v", text, tt.value, err)
			}
			if out, err := tt.value.(encoding.TextMarshaler).MarshalText(); err != nil || string(out) != text {
				t.Errorf("%s: written as %s, %v", text, out, err)
			}
		}
		before := tt.value.String()
		for _, text := range []string{"", "Auto", "warn+1", "none"} {
			if err := tt.value.UnmarshalText([]byte(text)); err == nil || tt.value.String() != before {
				t.Errorf("%q: became %s, %v", text, tt.value, err)
			}
		}
	}
	for l, want := range map[LogLevel]slog.Level{LogDebug: slog.LevelDebug, LogInfo: slog.LevelInfo, LogWarn: slog.LevelWarn, LogError: slog.LevelError, "": slog.LevelWarn} {
		if l.Level() != want {
			t.Errorf("%s is level %s", l, l.Level())
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("gateway = \"none\"\nlisten = [\"/ip4/0.0.0.0/tcp/1\"]\nmdns = false # x\n[a]\nb = 1"))
	f.Add([]byte("dht.x = { y = [1, 2.5, 1979-05-27] }\n'log_level' = '''warn'''\n\"a\\u0000\" = inf"))
	f.Add([]byte("bootstrap = [\"" + peerAddr + "\"]\nconnections_low = 0x10\n[[x]]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig("config.toml", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "config.toml") {
				t.Errorf("%q: an error that names no file: %v", data, err)
			}
			return
		}
		// Whatever was let in passes, but for values that contradict each other.
		c.ConnectionsLow = min(c.ConnectionsLow, c.ConnectionsHigh)
		if err := c.Check(); err != nil {
			t.Errorf("%q: %v", data, err)
		}
	})
}
