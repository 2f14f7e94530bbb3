# The lab's guest: a boot sector that behaves as it is told.
#
# It takes one-letter commands from the serial port COM1 (which needs no libvirtd) or from the keyboard
# (`virsh send-key DOMAIN KEY_P`), answers each on COM1 with the letter itself before it acts, and obeys the ACPI power
# button until told otherwise. A letter that is no command is only answered: so one learns that the guest has booted.
#
#   p power off      s ACPI S3 (suspend to RAM)    c panic (pvpanic: panicked)       h hang: it answers no more
#   r reset          d ACPI S4 (suspend to disk)   l panic (pvpanic: crash loaded)   i ignore the power button
#   t triple fault   w write the first hard disk from its second sector to its last
#
# The ports are those of QEMU's `pc` machine: the ACPI registers stand where SeaBIOS puts them.

.set COM1_DATA,   0x3f8
.set COM1_STATUS, 0x3fd         # bit 0: a byte has come in
.set PM1_STATUS,  0x600         # bit 8: the power button was pressed; bits are cleared by writing 1
.set PM1_ENABLE,  0x602         # same bits
.set PM1_CONTROL, 0x604         # bit 13: go to sleep now, as deep as bits 10-12 say
.set POWER_BUTTON, 1 << 8
.set SLEEP_S5,    1 << 13 | 0 << 10
.set SLEEP_S3,    1 << 13 | 1 << 10
.set SLEEP_S4,    1 << 13 | 2 << 10
.set PVPANIC,     0x505         # bit 0: panicked, bit 1: crash loaded
.set RESET,       0xcf9
.set FULL_RESET,  6
.set FIRST_DISK,  0x80
.set LAST_SECTOR, 127           # the lab's disk has 128 sectors

.code16
.globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $PM1_STATUS, %dx       # a button pressed before we booted is forgotten
    movw $0xffff, %ax
    outw %ax, %dx
    movw $PM1_ENABLE, %dx       # without this the button would not even be noted
    movw $POWER_BUTTON, %ax
    outw %ax, %dx
    sti

# The clock's interrupt, 18 times a second, ends each hlt.
main:
    hlt
    cmpb $0, ignore_button
    jne serial
    movw $PM1_STATUS, %dx
    inw %dx, %ax
    testw $POWER_BUTTON, %ax
    jnz power_off

serial:
    movw $COM1_STATUS, %dx
    inb %dx, %al
    testb $1, %al
    jz keyboard
    movw $COM1_DATA, %dx
    inb %dx, %al
    jmp command

keyboard:
    movb $1, %ah                # BIOS: is there a key?
    int $0x16
    jz main
    xorb %ah, %ah               # BIOS: take it
    int $0x16

command:
    movw $COM1_DATA, %dx
    outb %al, %dx
    movw $commands, %si
1:  cmpb $0, (%si)
    je main
    cmpb %al, (%si)
    je 2f
    addw $3, %si
    jmp 1b
2:  jmp *1(%si)

commands:
    .byte 'p'; .word power_off
    .byte 's'; .word suspend_to_ram
    .byte 'd'; .word suspend_to_disk
    .byte 'r'; .word reset
    .byte 't'; .word triple_fault
    .byte 'c'; .word panic
    .byte 'l'; .word crash_loaded
    .byte 'h'; .word hang
    .byte 'i'; .word ignore
    .byte 'w'; .word write_disk
    .byte 0

power_off:
    movw $SLEEP_S5, %ax
    jmp sleep
suspend_to_ram:
    movw $SLEEP_S3, %ax
    jmp sleep
suspend_to_disk:
    movw $SLEEP_S4, %ax
sleep:
    movw $PM1_CONTROL, %dx
    outw %ax, %dx
    jmp hang                    # the machine takes a moment to go down: do nothing more in it

reset:
    movw $RESET, %dx
    movb $FULL_RESET, %al
    outb %al, %dx
    jmp hang

triple_fault:
    lidt no_interrupts          # an interrupt that nobody can take, nor the fault that follows, nor the next
    int $3

panic:
    movb $1, %al
    jmp tell_pvpanic
crash_loaded:
    movb $2, %al
tell_pvpanic:
    movw $PVPANIC, %dx
    outb %al, %dx
    jmp main

hang:
    cli
    hlt
    jmp hang

ignore:
    movb $1, ignore_button
    jmp main

# Should the disk's filesystem be full, QEMU stops the machine in the midst of a write and repeats it when resumed.
write_disk:
    movw $1, disk_packet + 8    # the first sector is left alone
1:  movw $disk_packet, %si
    movw $0x4300, %ax           # BIOS: write, by block number
    movb $FIRST_DISK, %dl
    int $0x13
    jc main                     # no disk
    incw disk_packet + 8
    cmpw $LAST_SECTOR, disk_packet + 8
    jbe 1b
    jmp main

disk_packet:                    # 16 bytes long, 1 sector, from the boot sector itself, to block 1 onwards
    .byte 16, 0
    .word 1, _start, 0
    .quad 1

no_interrupts:
    .word 0, 0, 0
ignore_button:
    .byte 0

.org 510                        # what the BIOS knows a boot sector by
    .word 0xaa55
