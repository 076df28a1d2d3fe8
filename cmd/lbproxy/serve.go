package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery/file"
	"github.com/lbproxy/lbproxy/internal/app"
	"github.com/lbproxy/lbproxy/internal/filewatch"
	"github.com/lbproxy/lbproxy/internal/terminal"
)

func newServeCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve [--config FILE] [flags]",
		Short: "Run the proxy",
		Long: `Run the proxy until SIGTERM or SIGINT. It then accepts no more calls, lets the running ones end for as long as
drain_timeout allows, and exits with 0; a second signal ends it at once.

Without a configuration file it takes calls at 127.0.0.1:7070 and finds services in etcd at 127.0.0.1:2379.
Flags override the file. At SIGHUP, and when the file changes, services, routes and the log level are taken
over while it runs; a file with faults changes nothing.`,
		Example: `  # With the defaults
  lbproxy serve

  # With a configuration file, and etcd elsewhere
  lbproxy serve --config /etc/lbproxy/lbproxy.yaml --etcd 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379

  # Without etcd: instances from a file
  lbproxy serve --instances ./instances.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.serve(cmd) },
	}
	f.add(cmd)
	return cmd
}

// serveFlags are the flags of serve. Those given on the command line override the configuration.
type serveFlags struct {
	path      string
	engine    string
	listen    []string
	admin     string
	metrics   string
	etcd      []string
	root      string
	instances string
	drain     time.Duration
	logLevel  string
	logFormat string
}

func (f *serveFlags) add(cmd *cobra.Command) {
	d := configs.Default()
	flags := cmd.Flags()
	flags.StringVarP(&f.path, "config", "c", "", "configuration file")
	flags.StringVar(&f.engine, "engine", d.Engine, "what moves the bytes")
	flags.StringSliceVar(&f.listen, "listen", []string{d.Listeners[0].Address}, "where to take calls: host:port or unix:PATH")
	flags.StringVar(&f.admin, "admin", d.Admin.Address, "where to serve the admin API")
	flags.StringVar(&f.metrics, "metrics", "", "where to serve metrics and health to other hosts as well")
	flags.StringSliceVar(&f.etcd, "etcd", d.Discovery.Etcd.Endpoints, "etcd's members, as host:port or URLs")
	flags.StringVar(&f.root, "root", "", "what stands before /SERVICE/ in etcd's keys, such as /lbproxy")
	flags.StringVar(&f.instances, "instances", "", "file that lists instances, in place of etcd")
	flags.DurationVar(&f.drain, "drain-timeout", d.DrainTimeout, "how long running calls may take to end at shutdown")
	flags.StringVar(&f.logLevel, "log-level", d.Log.Level, "debug, info, warn or error")
	flags.StringVar(&f.logFormat, "log-format", d.Log.Format, "json, console for people, or auto: console on a terminal, json elsewhere")
	cmd.MarkFlagsMutuallyExclusive("etcd", "instances")
}

// load reads the configuration file, if there is one, and applies the given flags on top.
func (f *serveFlags) load(given func(flag string) bool) (*configs.Config, error) {
	cfg := configs.Default()
	if f.path != "" {
		var err error
		if cfg, err = configs.Load(f.path); err != nil {
			return nil, err
		}
	}
	override := func(flag string, apply func()) {
		if given(flag) {
			apply()
		}
	}
	override("engine", func() { cfg.Engine = f.engine })
	override("listen", func() {
		cfg.Listeners = nil
		for _, address := range f.listen {
			cfg.Listeners = append(cfg.Listeners, configs.Listener{Address: address})
		}
	})
	override("admin", func() { cfg.Admin.Address = f.admin })
	override("metrics", func() { cfg.Metrics.Address = f.metrics })
	override("instances", func() { cfg.Discovery.Etcd, cfg.Discovery.File.Path = nil, f.instances })
	override("etcd", func() { f.fromEtcd(cfg).Endpoints = f.etcd })
	override("root", func() { f.fromEtcd(cfg).Root = f.root })
	override("drain-timeout", func() { cfg.DrainTimeout = f.drain })
	override("log-level", func() { cfg.Log.Level = f.logLevel })
	override("log-format", func() { cfg.Log.Format = f.logFormat })
	return cfg, cfg.Validate()
}

// fromEtcd makes etcd the source, unless it already is.
func (f *serveFlags) fromEtcd(cfg *configs.Config) *configs.Etcd {
	if cfg.Discovery.Etcd == nil {
		cfg.Discovery.Etcd, cfg.Discovery.File.Path = configs.Default().Discovery.Etcd, ""
	}
	return cfg.Discovery.Etcd
}

func (f *serveFlags) serve(cmd *cobra.Command) error {
	load := func() (*configs.Config, error) { return f.load(cmd.Flags().Changed) }
	var config *filewatch.Watch
	if f.path != "" {
		config = filewatch.New(f.path)
		defer config.Close()
		config.Read() // before load, so that any later change is noticed
	}
	cfg, err := load()
	if err != nil {
		return configError(err)
	}
	if cmd.Flags().Changed("instances") {
		if err := file.Check(f.instances); err != nil {
			return configError(err)
		}
	}
	log, level := newLogger(cmd.ErrOrStderr(), cfg.Log)
	defer log.Sync()
	log.Info("starting", zap.String("version", thisBuild().Version), zap.String("engine", cfg.Engine))
	app.UseCores(cfg)
	app.UseDescriptors(log)
	a, err := app.New(cfg, thisBuild().Version, log, level)
	if err != nil {
		return withFlag(err)
	}
	reload := func() {
		if next, err := load(); err != nil {
			a.ReloadFailed(err)
		} else {
			a.Reload(next)
		}
	}

	ctx, stop := untilSignal(cmd.Context())
	var reloading sync.WaitGroup
	reloading.Go(func() { reloadAtSIGHUP(ctx, reload, log) }) // both end with ctx
	if config != nil {
		reloading.Go(func() { reloadAtChange(ctx, config, reload, log) })
	}
	err = a.Run(ctx)
	stop()
	reloading.Wait()
	return err
}

// withFlag adds the flag that changes an address that cannot be listened at.
func withFlag(err error) error {
	var listen *app.ListenError
	if !errors.As(err, &listen) {
		return err
	}
	key, _, _ := strings.Cut(listen.Key, "[")
	flag := map[string]string{"listeners": "--listen", "admin.address": "--admin", "metrics.address": "--metrics"}[key]
	return fmt.Errorf("%w; choose another address there, or with %s", err, flag)
}

// untilSignal returns a context that the first SIGTERM or SIGINT cancels. The second has its default effect and ends
// the process.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() { // ends when the returned function is called
		for n := 1; ; n++ {
			select {
			case s := <-signals:
				cancel()
				if n == 2 {
					signal.Reset(s)
					_ = syscall.Kill(os.Getpid(), s.(syscall.Signal)) // a process can always signal itself
				}
			case <-done:
				return
			}
		}
	}()
	return ctx, sync.OnceFunc(func() {
		signal.Stop(signals)
		cancel()
		close(done)
	})
}

func reloadAtSIGHUP(ctx context.Context, reload func(), log *zap.Logger) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			log.Info("reading the configuration again, because of SIGHUP")
			reload()
		}
	}
}

func reloadAtChange(ctx context.Context, config *filewatch.Watch, reload func(), log *zap.Logger) {
	look := func() {
		if _, changed, _ := config.Read(); changed {
			reload() // which reads it again and reports its faults
		}
	}
	look() // for a change since it was loaded
	config.Run(ctx, filewatch.DefaultPoll, log, look)
}

// newLogger returns the configured logger and its level, which can be changed.
func newLogger(w io.Writer, cfg configs.Log) (*zap.Logger, zap.AtomicLevel) {
	level, err := zap.ParseAtomicLevel(cfg.Level)
	if err != nil {
		panic(fmt.Sprintf("log level was not validated: %v", err))
	}
	if cfg.Format == "console" || cfg.Format == "auto" && terminal.Is(w) {
		return zap.New(terminal.NewLogCore(w, level)), level
	}
	encoding := zap.NewProductionEncoderConfig()
	encoding.TimeKey = "time"
	encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoding.EncodeDuration = zapcore.StringDurationEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoding), zapcore.Lock(zapcore.AddSync(w)), level)), level
}
