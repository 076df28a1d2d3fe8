package main

import "syscall"

// processAttributes has the kernel kill the command should lbproxy be killed: nobody else would stop it.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
