"""The operator of Hub Steward: watches VolumeReset and ServerRestart and carries them out."""
